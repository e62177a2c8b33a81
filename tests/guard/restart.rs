//! T7: DELETE in a loop while the API server is killed and started again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams};
use reprieve::api::Site;
use reprieve::guard::{self, policy};
use reprieve::sandbox::Program;

use super::Cluster;

/// What the loop was answered.
#[derive(Debug, Default)]
struct Answers {
    by_the_guard: u32,
    not_ready: u32,
    no_answer: u32,
    others: Vec<String>,
}

/// Never does a DELETE pass: the API server refuses until it has read its policies.
pub async fn delete_across_a_restart(c: &mut Cluster) {
    super::entities::site(c, "always").await;
    super::namespaces::of_site(c, "always").await;
    let sites: Api<Site> = Api::all(c.admin.clone());
    let namespaces: Api<Namespace> = Api::all(c.admin.clone());
    let before = (
        sites.get("always").await.expect("a Site").metadata.uid,
        namespaces.get("always").await.expect("a namespace").metadata.uid,
    );
    let stop = Arc::new(AtomicBool::new(false));
    let tries: Vec<_> = (0..4)
        .map(|i| {
            let (stop, sites, namespaces) = (stop.clone(), sites.clone(), namespaces.clone());
            tokio::spawn(async move {
                let mut answers = Answers::default();
                while !stop.load(Ordering::Relaxed) {
                    let way = DeleteParams::background();
                    let (name, answer) = if i % 2 == 0 {
                        (policy::DELETE_ENTITIES, sites.delete("always", &way).await.map(drop))
                    } else {
                        let answer = namespaces.delete("always", &way).await.map(drop);
                        (policy::DELETE_NAMESPACES, answer)
                    };
                    match answer {
                        Err(kube::Error::Api(s)) if guard::is_denied_by(&s.message, name) => {
                            answers.by_the_guard += 1;
                        }
                        // RBAC and CRDs are loaded after the start as well.
                        Err(kube::Error::Api(s)) if matches!(s.code, 403 | 404 | 429 | 503) => {
                            answers.not_ready += 1;
                        }
                        Err(kube::Error::Api(s)) => answers.others.push(format!("{s:?}")),
                        Err(_) => answers.no_answer += 1,
                        Ok(()) => answers.others.push(format!("{name} let it through")),
                    }
                }
                answers
            })
        })
        .collect();
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let server = c.sandbox.process(Program::ApiServer).expect("an API server");
        server.kill().expect("it is killed");
        tokio::time::sleep(Duration::from_millis(200)).await;
        c.sandbox.process(Program::ApiServer).expect("one").restart().expect("it starts");
        c.sandbox.wait_until_ready().await.expect("it is ready");
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::Relaxed);
    let mut all = Answers::default();
    for tried in tries {
        // The client retries what is not answered, which can take longer than the test.
        let answers = tokio::time::timeout(Duration::from_secs(90), tried).await;
        let answers = answers.expect("it ends").expect("no panic");
        all.by_the_guard += answers.by_the_guard;
        all.not_ready += answers.not_ready;
        all.no_answer += answers.no_answer;
        all.others.extend(answers.others);
    }
    println!("DELETE across two restarts: {all:?}");
    assert!(all.others.is_empty(), "{all:?}");
    assert!(all.by_the_guard > 100, "{all:?}");
    assert!(all.not_ready + all.no_answer > 0, "the API server was never away: {all:?}");
    let after = (
        sites.get("always").await.expect("is there").metadata.uid,
        namespaces.get("always").await.expect("is there").metadata.uid,
    );
    assert_eq!(before, after);
}
