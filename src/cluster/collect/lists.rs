//! Lists, page by page.

use kube::Client;
use kube::api::ListParams;
use serde_json::{Value, json};

use super::{CollectError, Freshness};
use crate::cluster::discover::Kind;

/// Objects per page of a list that is taken in at once.
const PAGE: u32 = 500;
/// How often a list is begun anew when the API server has forgotten where it was.
pub(super) const RESTARTS: usize = 3;

/// One page of a list.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// The objects, each saying what it is.
    pub items: Vec<Value>,
    /// Where to go on. None: it was the last page.
    pub next: Option<String>,
    /// The resourceVersion of the list.
    pub version: String,
}

/// Which objects are listed: a kind, in a namespace or the whole cluster, by label.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub kind: Kind,
    pub namespace: Option<String>,
    pub labels: Option<String>,
}

impl Listed {
    pub fn failed(&self, source: kube::Error) -> CollectError {
        CollectError::List {
            kind: format!("{} {}", self.kind.resource.api_version, self.kind.resource.kind),
            namespace: self.namespace.clone(),
            source: Box::new(source),
        }
    }

    /// What a list asks for; no limit where it comes from the API server's cache.
    pub fn params(&self, freshness: Freshness, limit: u32) -> ListParams {
        let params = ListParams { label_selector: self.labels.clone(), ..ListParams::default() };
        match freshness {
            Freshness::Live => params.limit(limit),
            Freshness::Cached => params.match_any(),
        }
    }

    /// One page, of whole objects or of their metadata alone.
    pub async fn page(
        &self,
        client: &Client,
        params: &ListParams,
        whole: bool,
    ) -> kube::Result<Page> {
        let requests = kube::core::Request::new(self.kind.path(self.namespace.as_deref()));
        let request = if whole { requests.list(params) } else { requests.list_metadata(params) };
        let mut page: Value = client.request(request.map_err(kube::Error::BuildRequest)?).await?;
        let mut items = match page.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => items,
            _ => vec![],
        };
        for item in &mut items {
            // Items of a list of a built-in kind don't say what they are.
            item["apiVersion"] = json!(self.kind.resource.api_version);
            item["kind"] = json!(self.kind.resource.kind);
        }
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let next = Some(word(&page["metadata"]["continue"])).filter(|token| !token.is_empty());
        Ok(Page { items, next, version: word(&page["metadata"]["resourceVersion"]) })
    }
}

/// Whether the API server has forgotten where a list was: a slow reader, or a compaction.
pub(super) fn is_expired(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 410)
}

/// Every object of this kind in this namespace, or in the cluster, as the API server has it.
///
/// # Errors
/// What the API server said.
pub async fn list(
    client: &Client,
    kind: &Kind,
    namespace: Option<&str>,
    freshness: Freshness,
) -> Result<Vec<Value>, CollectError> {
    let namespace = namespace.map(str::to_owned);
    let listed = Listed { kind: kind.clone(), namespace, labels: None };
    let mut restarts = 0;
    loop {
        let mut found = vec![];
        match pages(client, &listed, freshness, &mut |item| found.push(item)).await {
            Err(error) if is_expired(&error) && restarts < RESTARTS => restarts += 1,
            result => return result.map(|()| found).map_err(|error| listed.failed(error)),
        }
    }
}

/// Hands every object of this kind in the cluster, or those with this label, to `take`, one page in
/// memory at a time. For counting: what was taken before an error is not taken back.
///
/// # Errors
/// What the API server said.
pub async fn for_each(
    client: &Client,
    kind: &Kind,
    label: Option<&str>,
    freshness: Freshness,
    take: &mut (dyn FnMut(Value) + Send),
) -> Result<(), CollectError> {
    let labels = label.map(str::to_owned);
    let listed = Listed { kind: kind.clone(), namespace: None, labels };
    pages(client, &listed, freshness, take).await.map_err(|error| listed.failed(error))
}

async fn pages(
    client: &Client,
    listed: &Listed,
    freshness: Freshness,
    take: &mut (dyn FnMut(Value) + Send),
) -> kube::Result<()> {
    let mut params = listed.params(freshness, PAGE);
    loop {
        let page = listed.page(client, &params, true).await?;
        page.items.into_iter().for_each(&mut *take);
        match page.next {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(()),
        }
    }
}
