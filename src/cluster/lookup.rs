//! Who holds an id: the lookup that is never skipped.

use std::collections::HashMap;

use http::header::ACCEPT;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Client, Resource};
use serde::Deserialize;
use serde_json::Value;

use super::{During, Error, Result};
use crate::api::{App, Site, TargetKind};

/// An entity that has a certain id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// What it is.
    pub kind: TargetKind,
    /// Name of the object.
    pub name: String,
    /// Namespace; none for a Site.
    pub namespace: Option<String>,
    /// UID of the object.
    pub uid: String,
}

impl Holder {
    /// The entity in words, as messages have it: `Site acme`, `App acme/wiki`.
    pub fn describe(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{} {namespace}/{}", self.kind, self.name),
            None => format!("{} {}", self.kind, self.name),
        }
    }
}

/// Who holds each of these ids, Sites and Apps alike, by live reads: one Table list for each kind,
/// in which the id is a column, so that thousands of ids cost two requests. An id that nobody
/// holds is not in the answer.
///
/// # Errors
/// A list that fails, or whose Table has no column `Id`: then nothing is known of any id.
pub async fn lookup(client: &Client, ids: &[String]) -> Result<HashMap<String, Vec<Holder>>> {
    let wanted: std::collections::HashSet<&str> = ids.iter().map(String::as_str).collect();
    let mut found: HashMap<String, Vec<Holder>> = HashMap::new();
    let lists = [
        (TargetKind::Site, Site::url_path(&(), None)),
        (TargetKind::App, App::url_path(&(), None)),
    ];
    for (kind, path) in lists {
        for (id, holder) in list_ids(client, kind, &path, None).await? {
            if wanted.contains(id.as_str()) {
                found.entry(id).or_default().push(holder);
            }
        }
    }
    for holders in found.values_mut() {
        holders.sort();
    }
    Ok(found)
}

/// Who holds this one id, by the field selector that both kinds offer.
///
/// # Errors
/// As [`lookup`].
pub async fn holders(client: &Client, id: &str) -> Result<Vec<Holder>> {
    let mut all = vec![];
    for (kind, path) in
        [(TargetKind::Site, Site::url_path(&(), None)), (TargetKind::App, App::url_path(&(), None))]
    {
        let rows = list_ids(client, kind, &path, Some(id)).await?;
        all.extend(rows.into_iter().filter(|(i, _)| i == id).map(|(_, holder)| holder));
    }
    all.sort();
    Ok(all)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Table {
    #[serde(default)]
    column_definitions: Vec<Column>,
    #[serde(default)]
    rows: Vec<Row>,
    metadata: TableMeta,
}

#[derive(Deserialize)]
struct TableMeta {
    #[serde(default, rename = "continue")]
    continue_: Option<String>,
}

#[derive(Deserialize)]
struct Column {
    name: String,
}

#[derive(Deserialize)]
struct Row {
    cells: Vec<Value>,
    object: Partial,
}

#[derive(Deserialize)]
struct Partial {
    metadata: ObjectMeta,
}

/// Pages of this many rows, so that the answer never is large.
const PAGE: u32 = 5000;

async fn list_ids(
    client: &Client,
    kind: TargetKind,
    path: &str,
    only: Option<&str>,
) -> Result<Vec<(String, Holder)>> {
    let doing = format!("list the ids of all {kind}s");
    let mut all = vec![];
    let mut continue_: Option<String> = None;
    loop {
        let query = query(only, continue_.as_deref());
        let request = http::Request::get(format!("{path}?{query}"))
            .header(ACCEPT, "application/json;as=Table;v=v1;g=meta.k8s.io")
            .body(vec![])
            .map_err(|e| Error::answer(&doing, e))?;
        let table: Table = client.request(request).await.during(&doing)?;
        // A list of nothing may come without columns.
        if table.rows.is_empty() {
            return Ok(all);
        }
        let column =
            table.column_definitions.iter().position(|c| c.name == "Id").ok_or_else(|| {
                Error::Answer {
                    doing: doing.clone(),
                    what: "the Table has no column Id: is the CRD of another version installed?"
                        .to_owned(),
                }
            })?;
        for row in table.rows {
            let Some(id) = row.cells.get(column).and_then(Value::as_str) else {
                return Err(Error::Answer {
                    doing,
                    what: format!("{kind} {:?} has no id", row.object.metadata.name),
                });
            };
            let meta = row.object.metadata;
            let holder = Holder {
                kind,
                name: meta.name.unwrap_or_default(),
                namespace: meta.namespace,
                uid: meta.uid.unwrap_or_default(),
            };
            all.push((id.to_owned(), holder));
        }
        match table.metadata.continue_ {
            Some(token) if !token.is_empty() => continue_ = Some(token),
            _ => return Ok(all),
        }
    }
}

fn query(only: Option<&str>, continue_: Option<&str>) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("includeObject", "Metadata").append_pair("limit", &PAGE.to_string());
    if let Some(id) = only {
        query.append_pair("fieldSelector", &format!("spec.id={}", escape(id)));
    }
    if let Some(token) = continue_ {
        query.append_pair("continue", token);
    }
    query.finish()
}

/// A field selector's value, with its three special characters escaped.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}
