//! Who holds an id: the lookup that is never skipped.

use std::collections::{HashMap, HashSet};

use http::header::ACCEPT;
use kube::{Client, Resource};
use serde::Deserialize;
use serde::de::IgnoredAny;
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

/// Up to this many ids are asked for one by one: the API server compares each entity with each of
/// them, but sends none of the others.
pub const FEW_IDS: usize = 4;
/// Pages of this many rows, so that no answer is large and no fleet is ever held as a whole.
const PAGE: u32 = 5000;

/// Who holds each of these ids, Sites and Apps alike, by live reads: one Table list for each kind,
/// in which the id is a column, so that thousands of ids cost two requests. An id that nobody
/// holds is not in the answer.
///
/// # Errors
/// A list that fails, or whose Table has no column `Id`: then nothing is known of any id.
pub async fn lookup(client: &Client, ids: &[String]) -> Result<HashMap<String, Vec<Holder>>> {
    if ids.len() <= FEW_IDS {
        let mut found = HashMap::new();
        for id in ids {
            let all = holders(client, id).await?;
            if !all.is_empty() {
                found.insert(id.clone(), all);
            }
        }
        return Ok(found);
    }
    let wanted: HashSet<&str> = ids.iter().map(String::as_str).collect();
    let keep = |row: &EntityRow| wanted.contains(row.id.as_str());
    let (sites, apps) = tokio::try_join!(
        list_rows(client, TargetKind::Site, None, keep),
        list_rows(client, TargetKind::App, None, keep),
    )?;
    Ok(by_id(sites.into_iter().chain(apps)))
}

/// Who holds this one id, by the field selector that both kinds offer.
///
/// # Errors
/// As [`lookup`].
pub async fn holders(client: &Client, id: &str) -> Result<Vec<Holder>> {
    let is_it = |row: &EntityRow| row.id == id;
    let (sites, apps) = tokio::try_join!(
        list_rows(client, TargetKind::Site, Some(id), is_it),
        list_rows(client, TargetKind::App, Some(id), is_it),
    )?;
    let mut all: Vec<Holder> = sites.into_iter().chain(apps).map(|row| row.holder).collect();
    all.sort();
    Ok(all)
}

/// An entity as a Table list shows it: its metadata without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntityRow {
    /// The platform's id.
    pub id: String,
    /// Which entity it is.
    pub holder: Holder,
    /// Whether it is being deleted.
    pub terminating: bool,
}

/// The entities of this kind that are to be kept, by one live Table list of all of them: their
/// bodies, which can be large, stay where they are.
///
/// # Errors
/// As [`lookup`].
pub async fn list_entities(
    client: &Client,
    kind: TargetKind,
    keep: impl Fn(&EntityRow) -> bool,
) -> Result<Vec<EntityRow>> {
    list_rows(client, kind, None, keep).await
}

/// Who holds each id, of these rows.
pub fn by_id(rows: impl IntoIterator<Item = EntityRow>) -> HashMap<String, Vec<Holder>> {
    let mut found: HashMap<String, Vec<Holder>> = HashMap::new();
    for row in rows {
        found.entry(row.id).or_default().push(row.holder);
    }
    for holders in found.values_mut() {
        holders.sort();
    }
    found
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
    metadata: RowMeta,
}

/// What is read of an object's metadata: the rest, field managers above all, is most of it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RowMeta {
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    deletion_timestamp: Option<IgnoredAny>,
}

async fn list_rows(
    client: &Client,
    kind: TargetKind,
    only: Option<&str>,
    keep: impl Fn(&EntityRow) -> bool,
) -> Result<Vec<EntityRow>> {
    let doing = format!("list the ids of all {kind}s");
    let path = match kind {
        TargetKind::Site => Site::url_path(&(), None),
        TargetKind::App => App::url_path(&(), None),
    };
    let mut all = vec![];
    let mut continue_: Option<String> = None;
    loop {
        let query = query(only, continue_.as_deref());
        let request = http::Request::get(format!("{path}?{query}"))
            .header(ACCEPT, "application/json;as=Table;v=v1;g=meta.k8s.io")
            .body(vec![])
            .map_err(|e| Error::answer(&doing, e))?;
        let table: Table = client.request(request).await.during(&doing)?;
        let column = table.column_definitions.iter().position(|c| c.name == "Id");
        // A list of nothing may come without columns.
        if column.is_none() && !table.rows.is_empty() {
            let what = "the Table has no column Id: is the CRD of another version installed?";
            return Err(Error::answer(doing, what));
        }
        for row in table.rows {
            let RowMeta { name, namespace, uid, deletion_timestamp } = row.object.metadata;
            let Some(id) = column.and_then(|c| row.cells.get(c)?.as_str()) else {
                return Err(Error::Answer { doing, what: format!("{kind} {name:?} has no id") });
            };
            let row = EntityRow {
                id: id.to_owned(),
                holder: Holder { kind, name, namespace, uid },
                terminating: deletion_timestamp.is_some(),
            };
            if keep(&row) {
                all.push(row);
            }
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
