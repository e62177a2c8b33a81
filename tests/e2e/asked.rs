//! What a Restore is asked for wrongly ends in words, and nothing alive is touched; a store that is
//! away is waited for; single Apps come back into a site that lives. B1 of the fault list, and B10
//! for Apps. One cluster serves all steps.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::sources::{back_up, ended, ready, restore, start};
use crate::user::{Snapshot, User, condition, expect, expect_condition, sample};
use reprieve::api::names;
use reprieve::guard::policy;
use reprieve::sandbox::{Operator, Sandbox};
use serde_json::{Value, json};

const SITE: &str = include_str!("../../deploy/samples/site.yaml");
const APP: &str = include_str!("../../deploy/samples/app.yaml");

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_wrongly_ends_in_words_and_an_app_comes_back() {
    let Some(sandbox) = Sandbox::for_test(env!("CARGO_BIN_EXE_reprieve")).await else { return };
    let begun = Instant::now();
    let step = |what: &str| eprintln!("{:6.1} s {what}", begun.elapsed().as_secs_f64());
    let mut operator = start(&sandbox).await;
    let admin = User::admin(&sandbox);
    admin.apply(&sample(SITE, "acme", 1)).worked();
    ready(&admin, "site --all");
    admin.apply(&sample(APP, "acme", 1)).worked();
    let wiki =
        sample(APP, "acme", 2).replace("shop", "wiki").replace("name: web", "name: wiki-web");
    let wiki = wiki
        .replace("name: api}", "name: wiki-api}")
        .replace("name: worker}", "name: wiki-worker}");
    admin.apply(&wiki).worked();
    ready(&admin, "app --all -A");
    back_up(&admin, "acme-1", "acme");
    let in_between = admin.get("bkp acme-1")["status"]["completionTime"].clone();
    // Times are in seconds: the next backup must be of a later one.
    std::thread::sleep(Duration::from_millis(1100));
    admin.apply(&sample(APP, "acme", 1).replace("EUR", "CHF")).worked();
    admin.until("configmap shop -n acme", "CHF", |live| live["data"]["currency"] == "CHF");
    ready(&admin, "app --all -A");
    back_up(&admin, "acme-2", "acme");
    step("a site with two Apps, backed up twice");
    asked_wrongly(&sandbox, &admin).await;
    step("what was asked for wrongly");
    the_store_is_away(&sandbox, &admin);
    step("a store that is away");
    an_app_comes_back(&sandbox, &admin, &mut operator, &in_between).await;
    step("an App came back");
    drop(operator);
    sandbox.stop().expect("nothing is left");
}

async fn asked_wrongly(sandbox: &Sandbox, admin: &User) {
    let schema = [
        (json!({"sites": {"ids": []}}), "should have at least 1 items"),
        (json!({"sites": {"ids": [""]}}), "ids[0]"),
        (json!({"sites": {"ids": [" "]}}), "ids[0]"),
        (json!({"apps": {"ids": ["a", "a"]}}), "Duplicate value"),
        (json!({"apps": {"ids": vec!["a"; 1001]}}), "must have at most 1000 items"),
        (json!({"store": "Some"}), "supported values: \"All\""),
        (json!({"sites": {"ids": ["a"], "atTime": "yesterday"}}), "date-time"),
        (json!({"sites": {"ids": ["a"]}, "store": "All"}), "exactly one of"),
        (json!({}), "exactly one of"),
    ];
    for (source, words) in schema {
        admin.create(&restore("never", &source)).failed(&[words]);
    }
    // Somebody else's entry in the catalogue.
    let folder = sandbox.store_dir().join("sites/site-8");
    fs::create_dir_all(&folder).expect("a folder");
    let entry = fs::read_dir(sandbox.store_dir().join("sites/site-1")).expect("a folder");
    let entry = entry.map(|e| e.expect("an entry").path());
    let entry = entry.into_iter().find(|path| path.extension().is_some_and(|e| e == "json"));
    let mut forged: Value =
        serde_json::from_slice(&fs::read(entry.expect("an entry")).expect("it can be read"))
            .unwrap();
    forged.as_object_mut().expect("an object").remove("signature");
    fs::write(folder.join("forged.json"), forged.to_string()).expect("it can be written");

    let before = Snapshot::take(sandbox, "acme").await;
    let ids = |kind: &str, id: &str| json!({ kind: { "ids": [id] } });
    let at = |kind: &str, id: &str, at: &str| json!({ kind: { "ids": [id], "atTime": at } });
    // The source, the reason of the first failure or of the condition, what is said of it.
    let rows = [
        ("unknown", ids("sites", "site-9"), "UnknownId", "no verified backup of a site"),
        ("unknown-app", ids("apps", "app-9"), "UnknownId", "no verified backup of an App"),
        ("app-as-site", ids("sites", "app-1"), "EntityTypeMismatch", "App acme/shop"),
        ("site-as-app", ids("apps", "site-1"), "EntityTypeMismatch", "Site acme"),
        ("lives", ids("sites", "site-1"), "SiteLives", "has all its namespaces"),
        ("app-lives", ids("apps", "app-1"), "AppLives", "nothing of it is touched"),
        ("early", at("sites", "site-1", "2020-01-01T00:00:00Z"), "NoBackupSoEarly", "(acme-1)"),
        ("future", at("apps", "app-1", "2199-01-01T00:00:00Z"), "TimeNotCome", "had not come"),
        ("forged", ids("sites", "site-8"), "CatalogueEntryRefused", "is not signed"),
        ("everything", json!({"store": "All"}), "CatalogueEntryRefused", "forged.json"),
        (
            "no-request",
            json!({"deletionRequestRef": {"name": "none"}}),
            "NothingToRestore",
            "there is no DeletionRequest none",
        ),
    ];
    for (name, source, ..) in &rows {
        admin.create(&restore(name, source)).worked();
    }
    for (name, _, reason, words) in rows {
        let live = ended(admin, name);
        expect_condition(&live, "Succeeded", &["False"]);
        expect_condition(&live, "Stalled", &["True"]);
        let said = format!("{} {}", live["status"]["failures"], condition(&live, "Succeeded"));
        assert!(said.contains(reason) && said.contains(words), "{name}: {reason}, {words}: {said}");
        let of = format!("get events --field-selector=involvedObject.name={name} -o name");
        assert!(!admin.kubectl(&of).worked().is_empty(), "{name}: an event");
        assert_eq!(live["status"]["sites"]["verified"].as_i64().unwrap_or(0), 0, "{name}: {live}");
    }
    before.expect_untouched(&Snapshot::take(sandbox, "acme").await, "whatever was asked for");
}

/// A store that does not answer: nobody begins empty by accident, and who lives goes on.
fn the_store_is_away(sandbox: &Sandbox, admin: &User) {
    let (store, away) = (sandbox.store_dir(), sandbox.store_dir().with_extension("away"));
    fs::rename(&store, &away).expect("it can be moved");
    admin.apply(&sample(SITE, "new", 5)).worked();
    let live = admin.until("site new", "a reason", |live| {
        condition(live, "Ready").contains("StoreUnavailable")
    });
    expect_condition(&live, "Ready", &["False", "reprieve.dev/start-empty=true"]);
    admin.kubectl("get namespace new").failed(&["(NotFound)"]);
    admin.create(&restore("away", &json!({"sites": {"ids": ["site-1"]}}))).worked();
    let live = admin.until("rst away", "a reason", |live| {
        condition(live, "Succeeded").contains("StoreUnavailable")
    });
    assert!(live["status"]["completionTime"].is_null(), "it waits: {live}");
    // One that lives is set up all the same.
    admin.kubectl("delete rolebinding reprieve-app -n acme").worked();
    admin.until("rolebinding -n acme", "the binding", |live| {
        let names = live["items"].as_array().into_iter().flatten();
        names.into_iter().any(|b| b["metadata"]["name"] == "reprieve-app")
    });
    fs::rename(&away, &store).expect("it can be moved back");
    ready(admin, "site new");
    let live = ended(admin, "away");
    expect("reason", "SiteLives", &live["status"]["failures"][0]["reason"], &live);
}

/// Somebody has taken the guard away and deleted an App with all that it had.
async fn lose_app(admin: &User, operator: &mut Operator) {
    operator.process_mut().kill().expect("it is killed");
    for name in [policy::DELETE_ENTITIES, policy::FINALIZERS] {
        admin.kubectl(&format!("delete validatingadmissionpolicybinding {name}")).worked();
    }
    let off = [
        "patch",
        "app",
        "shop",
        "-n",
        "acme",
        "--type=merge",
        "-p",
        r#"{"metadata":{"finalizers":null}}"#,
    ];
    let begun = Instant::now();
    while !admin.run(&off, "").ok || !admin.kubectl("delete app shop -n acme --wait=false").ok {
        assert!(begun.elapsed() < crate::user::PATIENCE, "the guard stays");
    }
    let kinds = "sa,role,rolebinding,configmap,secret,service,deployment";
    admin.kubectl(&format!("delete {kinds} -n acme -l reprieve.dev/app=shop")).worked();
    for name in [policy::DELETE_ENTITIES, policy::FINALIZERS] {
        let file =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("deploy/admission/{name}.yaml"));
        admin.apply(&fs::read_to_string(file).expect("the policy's file")).worked();
    }
    operator.process_mut().restart().expect("it starts");
    operator.wait_until_ready().await.expect("it is ready");
}

async fn an_app_comes_back(
    sandbox: &Sandbox,
    admin: &User,
    operator: &mut Operator,
    earlier: &Value,
) {
    let before = Snapshot::take(sandbox, "acme").await;
    lose_app(admin, operator).await;
    let lost = Snapshot::take(sandbox, "acme").await;
    assert!(lost.objects.len() + 10 < before.objects.len() + 1, "the App is gone");

    // B1: the archive is another one than the catalogue says.
    let at = |name: &str| {
        let location = admin.get(&format!("bkp {name}"))["status"]["location"].clone();
        sandbox.store_dir().join(location.as_str().expect("a location"))
    };
    let (first, second) = (at("acme-1"), at("acme-2"));
    let good = fs::read(&second).expect("an archive");
    fs::copy(&first, &second).expect("it can be written");
    let newest = json!({"apps": {"ids": ["app-1"]}});
    admin.create(&restore("swapped", &newest)).worked();
    let live = ended(admin, "swapped");
    expect("reason", "ArchiveInvalid", &live["status"]["failures"][0]["reason"], &live);
    fs::write(&second, good).expect("it can be written");
    lost.expect_untouched(&Snapshot::take(sandbox, "acme").await, "nothing comes from that");

    // Something is in the way: the App is not in service until it is whole.
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "shop", "namespace": "acme"},
        "data": {"by": "somebody else"},
    });
    admin.create(&map).worked();
    admin.create(&restore("in-the-way", &newest)).worked();
    let live = ended(admin, "in-the-way");
    expect("reason", "Conflict", &live["status"]["failures"][0]["reason"], &live);
    expect("object", "v1 ConfigMap acme/shop", &live["status"]["failures"][0]["object"], &live);
    let app = admin.get("app shop -n acme");
    expect("mark", "in-the-way", &app["metadata"]["annotations"][names::ANNOTATION_RESTORE], &app);
    let map = admin.get("configmap shop -n acme");
    expect("by", "somebody else", &map["data"]["by"], &map);
    admin.kubectl("delete configmap shop -n acme").worked();

    admin.create(&restore("app", &newest)).worked();
    let live = ended(admin, "app");
    expect_condition(&live, "Succeeded", &["True Verified", "1 of 1"]);
    ready(admin, "app --all -A");
    let app = admin.get("app shop -n acme");
    assert!(app["metadata"]["annotations"][names::ANNOTATION_RESTORE].is_null(), "{app}");
    let after = Snapshot::take(sandbox, "acme").await;
    before.expect_equal(&after, "the App is back");
    // The rest of the site is the same objects.
    for (key, uid, _) in &lost.objects {
        assert!(after.objects.iter().any(|o| o.0 == *key && o.1 == *uid), "{key} was touched");
    }
    let site = admin.get("site acme");
    expect("state", "Active", &site["status"]["state"], &site);

    // As it was earlier.
    lose_app(admin, operator).await;
    let source = json!({"apps": {"ids": ["app-1"], "atTime": earlier}});
    admin.create(&restore("earlier", &source)).worked();
    let live = ended(admin, "earlier");
    expect_condition(&live, "Succeeded", &["True Verified"]);
    let map = admin.get("configmap shop -n acme");
    expect("currency", "EUR", &map["data"]["currency"], &map);
}
