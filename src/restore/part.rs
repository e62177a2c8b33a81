//! Which objects of a site's archive are one App's. Pure.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::rewrite::owner_keys;
use crate::api::names;
use crate::cluster::form::ObjectKey;
use crate::store::CataloguedApp;

/// One App of a site that is to be restored into the site, which lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppPart {
    /// Name of the Site.
    pub site: String,
    /// The App.
    pub app: CataloguedApp,
}

impl AppPart {
    /// The key of the App itself.
    pub fn key(&self) -> ObjectKey {
        ObjectKey {
            group: names::GROUP.to_owned(),
            kind: "App".to_owned(),
            namespace: Some(self.app.namespace.clone()),
            name: self.app.name.clone(),
        }
    }
}

/// The keys of an App, of the objects that its manifests name, and of what is owned by these: what
/// went when the App was purged. `objects` gives every object of the archive. Empty: the App is not
/// in it.
pub fn keys<'a, I>(part: &AppPart, objects: impl Fn() -> I) -> HashSet<ObjectKey>
where
    I: Iterator<Item = (&'a ObjectKey, &'a Value)>,
{
    let own = part.key();
    let Some((_, app)) = objects().find(|(key, _)| **key == own) else { return HashSet::new() };
    let mut keys: HashSet<ObjectKey> = manifests(app, &part.app.namespace).collect();
    keys.insert(own);
    let inside = |key: &ObjectKey| key.namespace.as_ref() == Some(&part.app.namespace);
    loop {
        let owned: Vec<ObjectKey> = objects()
            .filter(|(key, _)| inside(key) && !keys.contains(*key))
            .filter(|(_, object)| {
                let owners = object["metadata"]["ownerReferences"].as_array();
                let mut owners = owners.into_iter().flatten().flat_map(|o| owner_keys(object, o));
                owners.any(|owner| owner.is_some_and(|owner| keys.contains(&owner)))
            })
            .map(|(key, _)| key.clone())
            .collect();
        if owned.is_empty() {
            return keys;
        }
        keys.extend(owned);
    }
}

/// The objects that an App's manifests name: all of them live in the App's namespace.
fn manifests(app: &Value, namespace: &str) -> impl Iterator<Item = ObjectKey> {
    let all = app["spec"]["manifests"].as_array().into_iter().flatten();
    all.filter_map(move |manifest| {
        ObjectKey::of(&json!({
            "apiVersion": manifest["apiVersion"], "kind": manifest["kind"],
            "metadata": { "name": manifest["metadata"]["name"], "namespace": namespace },
        }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_is_what_its_manifests_name_and_what_these_own() {
        let named =
            |kind: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "shop"}});
        let object = |api_version: &str,
                      kind: &str,
                      namespace: &str,
                      name: &str,
                      owner: Option<(&str, &str)>| {
            let owners: Vec<Value> = owner
                .map(|(kind, name)| json!({"apiVersion": "v1", "kind": kind, "name": name}))
                .into_iter()
                .collect();
            let metadata = json!({"name": name, "namespace": namespace, "ownerReferences": owners});
            let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata});
            if kind == "App" {
                object["spec"] = json!({"manifests": [named("ConfigMap"), named("Secret")]});
            }
            (ObjectKey::of(&object).unwrap(), object)
        };
        let all = [
            object(names::API_VERSION, "App", "acme", "shop", None),
            object("v1", "ConfigMap", "acme", "shop", None),
            object("v1", "ConfigMap", "acme", "child", Some(("Secret", "shop"))),
            object("v1", "ConfigMap", "acme", "grandchild", Some(("ConfigMap", "child"))),
            // Somebody else's: of the same name, of the other namespace, owned by another one.
            object("v1", "Service", "acme", "shop", None),
            object("v1", "ConfigMap", "acme-jobs", "shop", None),
            object("v1", "ConfigMap", "acme-jobs", "child", Some(("Secret", "shop"))),
            object("v1", "ConfigMap", "acme", "other", Some(("Secret", "other"))),
            object(names::API_VERSION, "App", "acme", "other", None),
        ];
        let part = |name: &str| AppPart {
            site: "acme".into(),
            app: CataloguedApp { id: "a".into(), namespace: "acme".into(), name: name.into() },
        };
        let objects = || all.iter().map(|(key, object)| (key, object));
        let mut found: Vec<String> =
            keys(&part("shop"), objects).iter().map(ToString::to_string).collect();
        found.sort();
        assert_eq!(
            found,
            [
                "App.reprieve.dev/acme/shop",
                "ConfigMap/acme/child",
                "ConfigMap/acme/grandchild",
                "ConfigMap/acme/shop",
                // Named by the manifests, and not in the archive.
                "Secret/acme/shop",
            ]
        );
        assert!(keys(&part("absent"), objects).is_empty());
    }
}
