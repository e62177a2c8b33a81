//! The fleet of the demo: tenants made from `deploy/samples`, and what all of them hold.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use serde_json::{Value, json};

use crate::api::{App, ConditionType, Conditions as _, Site, names};
use crate::cluster::collect::{Freshness, is_derived, list};
use crate::cluster::discover::Kinds;
use crate::cluster::form::{ObjectKey, archived_form, object_digest, root_digest};

const SITE: &str = include_str!("../../../deploy/samples/site.yaml");
const APP: &str = include_str!("../../../deploy/samples/app.yaml");

/// Requests in flight at a time.
const CONCURRENCY: usize = 8;

/// Who the tenants are. A larger fleet has some of them in several regions.
const TENANTS: [&str; 40] = [
    "Acme Corp",
    "Alder & Sons",
    "Amber Logistics",
    "Baltic Timber",
    "Basil Kitchens",
    "Beacon Health",
    "Birch Publishing",
    "Bluefin Foods",
    "Cedar Robotics",
    "Cobalt Mining",
    "Coral Travel",
    "Delta Bikes",
    "Dune Optics",
    "Elm Street Books",
    "Ember Studios",
    "Fjord Shipping",
    "Flint Tools",
    "Garnet Bank",
    "Glacier Water",
    "Harbour Law",
    "Hazel Schools",
    "Indigo Prints",
    "Ivory Pianos",
    "Juniper Labs",
    "Kestrel Air",
    "Lagoon Hotels",
    "Lark Radio",
    "Maple Insurance",
    "Meadow Dairy",
    "Nimbus Cloud",
    "Oak & Iron",
    "Onyx Security",
    "Pebble Games",
    "Quartz Watches",
    "Raven Media",
    "Saffron Spices",
    "Tidal Energy",
    "Umber Ceramics",
    "Violet Clinics",
    "Willow Care",
];

/// One tenant.
#[derive(Clone, Debug)]
pub(super) struct Tenant {
    /// Name of the Site, and of its namespace.
    pub site: String,
    /// Id of the Site.
    pub id: String,
    /// Id of its App.
    pub app_id: String,
    /// The tenant's name.
    pub name: String,
}

/// This many tenants.
pub(super) fn tenants(count: usize) -> Vec<Tenant> {
    let tenant = |i: usize| {
        let (name, round) = (TENANTS[i % TENANTS.len()], i / TENANTS.len());
        let name = if round == 0 { name.to_owned() } else { format!("{name} {}", round + 1) };
        let words: Vec<String> = name
            .split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|word| !word.is_empty() && *word != "Corp")
            .map(str::to_ascii_lowercase)
            .collect();
        let site = words.join("-");
        Tenant {
            site,
            id: format!("site-{}", 4711 + i),
            app_id: format!("app-{:04}", 815 + i),
            name,
        }
    };
    (0..count).map(tenant).collect()
}

/// A sample with this tenant's names and ids in the place of its own.
fn sample(yaml: &str, tenant: &Tenant) -> Result<Value> {
    let mut value: Value = serde_saphyr::from_str(yaml).context("a sample is not YAML")?;
    let contact = format!("ops@{}.example", tenant.site);
    let password = format!("not-a-real-one-of-{}", tenant.site);
    let words = [
        ("acme", tenant.site.as_str()),
        ("Acme Corp", &tenant.name),
        ("site-4711", &tenant.id),
        ("app-0815", &tenant.app_id),
        ("ops@acme.example", &contact),
        ("not-a-real-one", &password),
    ];
    substitute(&mut value, &words);
    Ok(value)
}

fn substitute(value: &mut Value, words: &[(&str, &str)]) {
    match value {
        Value::String(text) => {
            if let Some((_, to)) = words.iter().find(|(from, _)| from == text) {
                *text = (*to).to_owned();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| substitute(item, words)),
        Value::Object(map) => map.values_mut().for_each(|item| substitute(item, words)),
        _ => {}
    }
}

/// Creates every Site, with what people put into its namespace by hand, and then its App.
pub(super) async fn create(client: &Client, tenants: &[Tenant]) -> Result<()> {
    let all = tenants.iter().map(|tenant| async move {
        create_one(client, tenant)
            .await
            .with_context(|| format!("cannot create the site {}", tenant.site))
    });
    stream::iter(all).buffer_unordered(CONCURRENCY).try_collect().await
}

async fn create_one(client: &Client, tenant: &Tenant) -> Result<()> {
    let params = PostParams::default();
    let site: Site = serde_json::from_value(sample(SITE, tenant)?)?;
    let sites: Api<Site> = Api::all(client.clone());
    sites.create(&params, &site).await?;
    // The operator makes the namespace. Whoever comes too early is told so, and comes again.
    loop {
        let live = sites.get(&tenant.site).await?;
        if live.status.is_some_and(|s| s.conditions.is_true(ConditionType::Ready)) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let note: ConfigMap = serde_json::from_value(json!({
        "metadata": { "name": "made-by-hand" },
        "data": { "note": format!("{} put this here; no App knows of it", tenant.name) },
    }))?;
    Api::<ConfigMap>::namespaced(client.clone(), &tenant.site).create(&params, &note).await?;
    let app: App = serde_json::from_value(sample(APP, tenant)?)?;
    Api::<App>::namespaced(client.clone(), &tenant.site).create(&params, &app).await?;
    Ok(())
}

/// How many of these sites are Active with a Ready App, counted by the operator; and what one of
/// the others waits for.
pub(super) async fn ready(client: &Client, sites: &BTreeSet<String>) -> Result<(usize, String)> {
    let params = ListParams::default().match_any();
    let live = Api::<Site>::all(client.clone()).list(&params).await?;
    let apps = Api::<App>::all(client.clone()).list(&params).await?;
    let mut waits: BTreeMap<&str, String> =
        sites.iter().map(|site| (site.as_str(), format!("Site {site}: not there"))).collect();
    for site in &live {
        let name = site.metadata.name.as_deref().unwrap_or_default();
        let Some(waits_for) = waits.get_mut(name) else { continue };
        let status = site.status.clone().unwrap_or_default();
        let app = apps.iter().find(|a| a.metadata.namespace.as_deref() == Some(name));
        let app = app.and_then(|a| a.status.as_ref());
        let counted = status.inventory.as_ref().is_some_and(|i| i.apps == 1 && i.apps_ready == 1);
        let active = status.conditions.is_true(ConditionType::Ready);
        let app_ready = app.is_some_and(|a| a.conditions.is_true(ConditionType::Ready));
        if active && app_ready && counted {
            waits.remove(name);
            continue;
        }
        let conditions = if active { app.map(|a| &a.conditions) } else { Some(&status.conditions) };
        let ready = conditions.and_then(|c| c.get(ConditionType::Ready));
        let message = ready.map_or("no condition Ready", |c| c.message.as_str());
        let kind = if active { "its App" } else { "itself" };
        *waits_for = format!("Site {name}, {kind}: {message}");
    }
    let seen = waits.values().next().cloned().unwrap_or_default();
    Ok((sites.len() - waits.len(), seen))
}

/// One object: which of its name, and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    uid: String,
    digest: String,
}

/// Every object of every site, read live, in its archived form.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    sites: BTreeMap<String, BTreeMap<ObjectKey, Seen>>,
}

/// What must be so of UIDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Uids {
    /// The very same objects.
    Same,
    /// Others: everything was created anew.
    New,
}

impl Snapshot {
    /// Reads it: every kind that the API server serves, in every namespace.
    ///
    /// # Errors
    /// A list that fails.
    pub async fn take(client: &Client, kinds: &Kinds) -> Result<Self> {
        let mut snapshot = Self::default();
        let find = |version: &str, kind: &str| {
            kinds.find(version, kind).with_context(|| format!("{kind} is not served"))
        };
        let everything = |kind| list(client, kind, None, Freshness::Live);
        for live in everything(find(names::API_VERSION, "Site")?).await? {
            let site = text(&live["metadata"]["name"]);
            snapshot.add(&site, live);
        }
        let mut owners = BTreeMap::new();
        for live in everything(find("v1", "Namespace")?).await? {
            let owner = text(&live["metadata"]["labels"][names::LABEL_SITE]);
            if !owner.is_empty() {
                owners.insert(text(&live["metadata"]["name"]), owner.clone());
                snapshot.add(&owner, live);
            }
        }
        let lists = kinds.of_a_site().map(everything);
        let mut lists = stream::iter(lists.collect::<Vec<_>>()).buffer_unordered(CONCURRENCY);
        while let Some(objects) = lists.try_next().await? {
            for live in objects {
                let owner = owners.get(live["metadata"]["namespace"].as_str().unwrap_or_default());
                if let Some(owner) = owner.filter(|_| !is_derived(&live)) {
                    snapshot.add(owner, live);
                }
            }
        }
        Ok(snapshot)
    }

    fn add(&mut self, site: &str, live: Value) {
        let Some(key) = ObjectKey::of(&live) else { return };
        let uid = text(&live["metadata"]["uid"]);
        let digest = object_digest(&archived_form(live));
        self.sites.entry(site.to_owned()).or_default().insert(key, Seen { uid, digest });
    }

    /// Number of objects.
    pub fn objects(&self) -> usize {
        self.sites.values().map(BTreeMap::len).sum()
    }

    /// Number of sites.
    pub fn sites(&self) -> usize {
        self.sites.len()
    }

    /// The part about these sites, or about all others.
    pub fn part(&self, sites: &BTreeSet<String>, of_these: bool) -> Self {
        let wanted = |site: &String| sites.contains(site) == of_these;
        let sites = self.sites.iter().filter(|(site, _)| wanted(site));
        Self { sites: sites.map(|(site, objects)| (site.clone(), objects.clone())).collect() }
    }

    /// The root digest of everything that a site holds.
    pub fn root(&self, site: &str) -> String {
        let objects = self.sites.get(site).into_iter().flatten();
        root_digest(objects.map(|(key, seen)| (key, seen.digest.as_str())))
    }

    /// What differs from this in `now`, in words: the first few differences. None: nothing does.
    pub fn difference(&self, now: &Self, uids: Uids) -> Option<String> {
        let mut found = vec![];
        for site in self.sites.keys().chain(now.sites.keys()).collect::<BTreeSet<_>>() {
            let none = BTreeMap::new();
            let (before, after) =
                (self.sites.get(site).unwrap_or(&none), now.sites.get(site).unwrap_or(&none));
            for key in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
                let what = match (before.get(key), after.get(key)) {
                    (Some(_), None) => "is gone",
                    (None, _) => "was not there before",
                    (Some(a), Some(b)) if a.digest != b.digest => "is not equal",
                    (Some(a), Some(b)) if (a.uid == b.uid) != (uids == Uids::Same) => match uids {
                        Uids::Same => "has another UID",
                        Uids::New => "has its old UID",
                    },
                    _ => continue,
                };
                found.push(format!("{key} {what}"));
            }
        }
        let count = found.len();
        found.truncate(3);
        let more = if count > 3 { format!(", and {} more", count - 3) } else { String::new() };
        (count > 0).then(|| format!("{}{more}", found.join(", ")))
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Which of these sites are still there, by their Sites and their namespaces.
pub(super) async fn survivors(client: &Client, sites: &BTreeSet<String>) -> Result<Vec<String>> {
    let mut found = vec![];
    for site in sites {
        if Api::<Site>::all(client.clone()).get_opt(site).await?.is_some() {
            found.push(format!("Site {site}"));
        }
        if Api::<Namespace>::all(client.clone()).get_opt(site).await?.is_some() {
            found.push(format!("namespace {site}"));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tenant_has_names_and_ids_of_its_own() {
        let all = tenants(100);
        let sites: BTreeSet<&String> = all.iter().map(|t| &t.site).collect();
        let ids: BTreeSet<&String> = all.iter().flat_map(|t| [&t.id, &t.app_id]).collect();
        assert_eq!((sites.len(), ids.len()), (100, 200));
        assert_eq!((&*all[0].site, &*all[1].site), ("acme", "alder-sons"));
        let app = sample(APP, &all[1]).unwrap();
        assert_eq!(app["metadata"]["namespace"], "alder-sons");
        assert_eq!(app["spec"]["id"], "app-0816");
        assert!(!app.to_string().contains("acme"), "{app}");
        serde_json::from_value::<App>(app).unwrap();
        let site: Site = serde_json::from_value(sample(SITE, &all[1]).unwrap()).unwrap();
        assert_eq!(site.spec.tenant.contacts, ["ops@alder-sons.example"]);
    }

    #[test]
    fn differences_are_told() {
        let object = |name: &str, uid: &str, data: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "a", "uid": uid}, "data": {"x": data}});
        let snapshot = |objects: &[Value]| {
            let mut all = Snapshot::default();
            objects.iter().for_each(|o| all.add("a", o.clone()));
            all
        };
        let before = snapshot(&[object("x", "1", "a"), object("y", "2", "a")]);
        let restored = snapshot(&[object("x", "3", "a"), object("y", "4", "a")]);
        assert_eq!(before.difference(&before, Uids::Same), None);
        assert_eq!(before.difference(&restored, Uids::New), None);
        assert_eq!(before.root("a"), restored.root("a"));
        let same = before.difference(&restored, Uids::Same).unwrap();
        assert_eq!(same, "ConfigMap/a/x has another UID, ConfigMap/a/y has another UID");
        let changed = snapshot(&[object("x", "1", "b")]);
        let told = before.difference(&changed, Uids::Same).unwrap();
        assert_eq!(told, "ConfigMap/a/x is not equal, ConfigMap/a/y is gone");
    }
}
