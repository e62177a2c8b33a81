//! Who looks again when what changes.

use serde_json::json;

use super::super::table::Told;
use super::*;

fn site(name: &str, id: &str, namespaces: &[&str]) -> SiteRow {
    let site = serde_json::from_value(json!({
        "metadata": { "name": name, "uid": format!("u-{name}") },
        "spec": { "id": id, "tenant": { "name": "T" }, "namespaces": namespaces },
    }));
    SiteRow::of(&site.unwrap())
}

fn app(namespace: &str, name: &str, id: &str) -> AppRow {
    let app = serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": namespace, "uid": format!("u-{name}") },
        "spec": { "id": id, "product": "p", "manifests": [] },
    }));
    AppRow::of(&app.unwrap())
}

fn set_site(rows: &mut Rows, name: &str, id: &str, namespaces: &[&str]) -> Again {
    let changes = rows.sites.set(name.to_owned(), site(name, id, namespaces));
    rows.site_changed(&changes[0])
}

fn set_app(rows: &mut Rows, namespace: &str, name: &str, id: &str) -> Again {
    let changes = rows.apps.set(format!("{namespace}/{name}"), app(namespace, name, id));
    rows.app_changed(&changes[0])
}

#[test]
fn every_holder_of_an_id_looks_again_when_another_comes_or_goes() {
    let mut rows = Rows::default();
    assert_eq!(set_site(&mut rows, "a", "1", &["a"]), Again::default());
    let again = set_site(&mut rows, "b", "1", &["b"]);
    assert_eq!(again.sites, BTreeSet::from(["a".to_owned()]));
    let again = set_app(&mut rows, "x", "shop", "1");
    assert_eq!(again.sites, BTreeSet::from(["a".to_owned(), "b".to_owned()]));
    assert_eq!(rows.holders("1").len(), 3);
    let again = set_app(&mut rows, "x", "wiki", "1");
    assert!(again.apps.contains(&("x".to_owned(), "shop".to_owned())), "{again:?}");
    let gone = rows.sites.take(Told::Gone("a".to_owned()));
    let again = rows.site_changed(&gone[0]);
    assert_eq!(again.sites, BTreeSet::from(["b".to_owned()]));
    assert_eq!(again.apps.len(), 2);
    assert_eq!(rows.holders("2"), []);
}

#[test]
fn a_namespace_concerns_those_that_name_it_and_its_apps() {
    let mut rows = Rows::default();
    set_app(&mut rows, "shared", "shop", "9");
    let again = set_site(&mut rows, "a", "1", &["shared"]);
    assert_eq!(again.apps, BTreeSet::from([("shared".to_owned(), "shop".to_owned())]));
    let again = set_site(&mut rows, "b", "2", &["shared", "b"]);
    assert_eq!(again.sites, BTreeSet::from(["a".to_owned()]));
    let row = NamespaceRow { uid: "n".into(), site: None, adopt: None, terminating: false };
    let changes = rows.namespaces.set("shared".to_owned(), row);
    let again = rows.namespace_changed(&changes[0]);
    assert_eq!(again.sites.len(), 2);
    assert_eq!(again.apps.len(), 1);
}

#[test]
fn what_an_account_may() {
    let mut rows = Rows::default();
    let binding = |wrong: Option<&str>, binds_account| BindingRow {
        wrong_role: wrong.map(str::to_owned),
        binds_account,
        made: None,
    };
    assert_eq!(rows.account("a"), Account::Missing);
    rows.bindings.set("a".into(), binding(None, true));
    assert_eq!(rows.account("a"), Account::Missing);
    rows.accounts.set("a".into(), "u".into());
    assert_eq!(rows.account("a"), Account::There(None));
    rows.bindings.set("a".into(), binding(None, false));
    assert_eq!(rows.account("a"), Account::Unbound);
    rows.bindings.set("a".into(), binding(Some("Role x"), true));
    assert_eq!(rows.account("a"), Account::WrongRole("Role x".into()));
}
