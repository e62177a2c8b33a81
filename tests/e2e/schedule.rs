//! B2 of the fault list, schedules and expiry, on a real control plane without the guard: what a
//! Site's status says is set by hand, so that nobody has to wait for a clock.

use std::path::Path;
use std::time::{Duration, SystemTime};

use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use reprieve::api::{
    Backup, BackupPurpose, ConditionType, Conditions, DeletionRequest, Restore, Site, Time,
};
use reprieve::backup::sweep::{Swept, sweep};
use reprieve::cluster::{Context, shutdown};
use reprieve::sandbox::Sandbox;
use reprieve::store::Store;
use serde_json::{Value, json};

use crate::backup::{backup_says, condition, create, install_crds, until};

async fn site(client: &Client, name: &str, backup: Value) -> Site {
    create(client, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"reprieve.dev/site": name}}})).await;
    let site = json!({
        "apiVersion": "reprieve.dev/v1alpha1", "kind": "Site", "metadata": {"name": name},
        "spec": {"id": format!("id-{name}"), "tenant": {"name": name}, "backup": backup},
    });
    serde_json::from_value(create(client, site).await).unwrap()
}

async fn set_status(client: &Client, name: &str, status: Value) {
    let api: Api<Site> = Api::all(client.clone());
    let patch = Patch::Merge(json!({ "status": status }));
    api.patch_status(name, &PatchParams::default(), &patch).await.unwrap();
}

/// Waits until the Site says this of its schedule.
async fn says(client: &Client, name: &str, words: &str) -> Site {
    let api: Api<Site> = Api::all(client.clone());
    until(&format!("the Site {name} says {words}"), || async {
        let site = api.get(name).await.unwrap();
        let conditions = site.status.clone().unwrap_or_default().conditions;
        let said = condition(&conditions, ConditionType::BackupScheduled).await;
        said.starts_with(words).then_some(site)
    })
    .await
}

async fn backups_of(client: &Client, site: &str) -> Vec<Backup> {
    let api: Api<Backup> = Api::all(client.clone());
    let mut all = api.list(&ListParams::default()).await.unwrap().items;
    all.retain(|backup| backup.spec.site_ref.name == site);
    all.sort_by_key(|backup| (backup.creation_timestamp(), backup.name_any()));
    all
}

/// The only Backup of a site, once it is verified.
async fn the_backup_of(client: &Client, site: &str) -> Backup {
    let first = until(&format!("a Backup of {site}"), || async {
        backups_of(client, site).await.into_iter().next()
    })
    .await;
    let verified = backup_says(client, &first.name_any(), ConditionType::Verified, "True").await;
    assert_eq!(backups_of(client, site).await.len(), 1, "{site}");
    verified
}

const LONG_AGO: &str = "2026-01-01T00:00:00Z";

async fn by_schedule(client: &Client) {
    // What is no schedule is told, and heals when it is corrected.
    site(client, "bad", json!({"schedule": "0 3 * *", "timeZone": "Europe/Berlin"})).await;
    let bad = says(client, "bad", "False InvalidSchedule").await;
    assert_eq!(bad.status.unwrap().next_backup_time, None);
    let api: Api<Site> = Api::all(client.clone());
    let zone = Patch::Merge(
        json!({"spec": {"backup": {"schedule": "0 3 * * *", "timeZone": "Mars/Olympus"}}}),
    );
    api.patch("bad", &PatchParams::default(), &zone).await.unwrap();
    let begun = says(client, "bad", "False InvalidSchedule spec.backup.timeZone").await;
    assert_eq!(begun.status.unwrap().next_backup_time, None);
    let right = Patch::Merge(json!({"spec": {"backup": {"timeZone": "Europe/Berlin"}}}));
    api.patch("bad", &PatchParams::default(), &right).await.unwrap();
    let good =
        says(client, "bad", "True Scheduled backups are made at 0 3 * * * Europe/Berlin").await;
    let created = good.creation_timestamp().map(|t| Time::from(&t)).unwrap();
    assert!(good.status.unwrap().next_backup_time.unwrap() > created);

    // Many were missed: one is made, and waits for the site to be Active.
    site(client, "late", json!({"schedule": "@hourly", "keepSeconds": 7200})).await;
    set_status(client, "late", json!({"state": "PendingDeletion", "lastScheduleTime": LONG_AGO}))
        .await;
    says(client, "late", "False EntityNotActive paused: the Site is PendingDeletion").await;
    assert_eq!(backups_of(client, "late").await.len(), 0);
    set_status(client, "late", json!({"state": "Active"})).await;
    let backup = the_backup_of(client, "late").await;
    assert_eq!(backup.spec.purpose, BackupPurpose::Scheduled);
    let site = says(client, "late", "True Scheduled").await;
    let status = site.status.clone().unwrap();
    let created = backup.creation_timestamp().map(|t| Time::from(&t)).unwrap();
    let kept = backup.spec.keep_until_time.unwrap().seconds_since(created);
    assert!((7190..=7210).contains(&kept), "{kept}");
    let (last, next) = (status.last_schedule_time.unwrap(), status.next_backup_time.unwrap());
    assert!(created.seconds_since(last) < 3700, "{last}");
    assert!(next > created && next.seconds_since(created) < 3600 + 360, "{next}");

    // A crash before the status was written, or another leader: the same Backup, not a second one.
    set_status(client, "late", json!({"lastScheduleTime": LONG_AGO})).await;
    until("the slot is written down again", || async {
        let site = api.get("late").await.unwrap();
        (site.status.unwrap().last_schedule_time == Some(last)).then_some(())
    })
    .await;
    assert_eq!(backups_of(client, "late").await.len(), 1);

    // Suspended: told, and nothing is made.
    let suspend = Patch::Merge(json!({"spec": {"backup": {"suspend": true}}}));
    api.patch("late", &PatchParams::default(), &suspend).await.unwrap();
    set_status(client, "late", json!({"lastScheduleTime": LONG_AGO})).await;
    says(client, "late", "False Suspended").await;
    let none = Patch::Merge(json!({"spec": {"backup": null}}));
    api.patch("late", &PatchParams::default(), &none).await.unwrap();
    until("nothing is said of a schedule that is not there", || async {
        let status = api.get("late").await.unwrap().status.unwrap();
        let silent = status.conditions.get(ConditionType::BackupScheduled).is_none();
        (silent && status.next_backup_time.is_none()).then_some(())
    })
    .await;
    assert_eq!(backups_of(client, "late").await.len(), 1);
}

async fn expired(ctx: &Context, store: &Store) -> Vec<String> {
    let Swept { expired, left_over } = sweep(ctx, store).await.unwrap();
    assert_eq!(left_over, [""; 0]);
    expired.into_iter().map(|entry| entry.backup).collect()
}

/// B2: as objects the last three stay, in the store what something depends on and the last one.
async fn b2_what_expires(client: &Client, ctx: &Context, store: &Store, store_dir: &Path) {
    site(client, "old", json!(null)).await;
    // It expired before it was made; the third only in years.
    for n in 1..=5 {
        let keep = if n == 3 { "2999-01-01T00:00:00Z" } else { "2020-01-01T00:00:00Z" };
        create(client, json!({
            "apiVersion": "reprieve.dev/v1alpha1", "kind": "Backup", "metadata": {"name": format!("old-{n}")},
            "spec": {"siteRef": {"name": "old"}, "keepUntilTime": keep},
        })).await;
        backup_says(client, &format!("old-{n}"), ConditionType::Verified, "True").await;
        // Creation times have the resolution of a second, and names decide within one.
    }
    until("three Backups are left as objects", || async {
        let names: Vec<String> =
            backups_of(client, "old").await.iter().map(|b| b.name_any()).collect();
        (names == ["old-3", "old-4", "old-5"]).then_some(())
    })
    .await;
    let listed = async || -> Vec<String> {
        let all = store.backups_of("id-old").await.unwrap();
        all.into_iter().map(|entry| entry.backup).collect()
    };
    assert_eq!(
        listed().await,
        ["old-1", "old-2", "old-3", "old-4", "old-5"],
        "the catalogue has all"
    );

    // While a Restore runs or a request is open, nothing goes.
    let restore = json!({"apiVersion": "reprieve.dev/v1alpha1", "kind": "Restore", "metadata": {"name": "runs"}, "spec": {"source": {"backupRefs": [{"name": "old-4"}]}}});
    create(client, restore).await;
    assert_eq!(expired(ctx, store).await, [""; 0]);
    let restores: Api<Restore> = Api::all(client.clone());
    restores.delete("runs", &DeleteParams::default()).await.unwrap();
    let request = json!({"apiVersion": "reprieve.dev/v1alpha1", "kind": "DeletionRequest", "metadata": {"name": "open"}, "spec": {"target": {"kind": "Site", "ids": ["id-old"]}, "reason": "a test"}});
    create(client, request).await;
    assert_eq!(expired(ctx, store).await, [""; 0]);
    let requests: Api<DeletionRequest> = Api::all(client.clone());
    let ended = Patch::Merge(json!({"status": {"state": "Cancelled"}}));
    requests.patch_status("open", &PatchParams::default(), &ended).await.unwrap();

    // What is in the catalogue and cannot be read might be the newest.
    let damaged = store_dir.join("sites/id-old/x.u.1.json");
    std::fs::write(&damaged, "{}").unwrap();
    assert_eq!(expired(ctx, store).await, [""; 0]);
    std::fs::remove_file(&damaged).unwrap();

    // The archive of an attempt that failed two days ago, beside a good one of the same Backup.
    let entries = store.backups_of("id-old").await.unwrap();
    let good = store_dir.join(&entries[4].location);
    let base = entries[4].location.strip_suffix(".jsonl.zst").unwrap().rsplit_once('.').unwrap().0;
    let dead = format!("{base}.dead.jsonl.zst");
    std::fs::copy(&good, store_dir.join(&dead)).unwrap();
    let file = std::fs::File::options().write(true).open(store_dir.join(&dead)).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(2 * 86_400)).unwrap();

    // The third was to be kept for longer, and the last one of a Site that lives stays.
    let swept = sweep(ctx, store).await.unwrap();
    let names: Vec<&str> = swept.expired.iter().map(|entry| entry.backup.as_str()).collect();
    assert_eq!(names, ["old-1", "old-2", "old-4"]);
    assert_eq!(swept.left_over, [dead.as_str()]);
    assert_eq!(listed().await, ["old-3", "old-5"]);
    let mut files: Vec<String> = std::fs::read_dir(good.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(files.len(), 4, "two archives and their entries: {files:?}");
    // Its object went with the archive; the others' stay.
    let left: Vec<String> = backups_of(client, "old").await.iter().map(|b| b.name_any()).collect();
    assert_eq!(left, ["old-3", "old-5"]);
    assert!(ctx.metrics.encode().contains("reprieve_expired_archives_total 3"));
    let events: Api<k8s_openapi::api::core::v1::Event> = Api::all(client.clone());
    let told = events.list(&ListParams::default()).await.unwrap().items;
    let told = told.iter().filter(|e| e.reason.as_deref() == Some("BackupExpired"));
    assert_eq!(told.filter(|e| e.involved_object.name.as_deref() == Some("old")).count(), 3);
    assert_eq!(expired(ctx, store).await, [""; 0], "once");

    // A kept time only grows, also without the guard.
    let api: Api<Backup> = Api::all(client.clone());
    let shorter = Patch::Merge(json!({"spec": {"keepUntilTime": "2020-01-01T00:00:00Z"}}));
    let error = api.patch("old-3", &PatchParams::default(), &shorter).await.unwrap_err();
    assert!(error.to_string().contains("keepUntilTime may only grow"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_come_by_schedule_and_go_when_they_expire() {
    let Some(sandbox) = Sandbox::for_test(env!("CARGO_BIN_EXE_reprieve")).await else { return };
    let client = sandbox.admin();
    install_crds(&client).await;
    crate::writes::nothing_is_done_to_what_was_not_read(&client).await;
    let store_dir = sandbox.dir().join("test-store");
    std::fs::create_dir(&store_dir).unwrap();
    let store = Store::open(&format!("file://{}", store_dir.display())).await.unwrap();
    let (stop, down) = shutdown();
    let ctx = Context::new(client.clone());
    let running = tokio::spawn(reprieve::backup::run(ctx.clone(), store.clone(), down));
    by_schedule(&client).await;
    b2_what_expires(&client, &ctx, &store, &store_dir).await;
    stop.send(true).unwrap();
    running.await.unwrap();
    sandbox.stop().unwrap();
}
