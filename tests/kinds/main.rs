//! Every rule and every limit of every kind, on a real API server: one object that passes, and one
//! that is refused with the rule's own message.
//!
//! The list of rules is the CRDs' own: a rule without a case fails this test, and so does a case
//! without a rule. To add a rule, add a line to [`rules`](cases::rules); to add a field, add it to [`base`](cases::base), or
//! to [`full`](cases::full), which has every field, so that each limit can be broken there.
#![cfg(feature = "sandbox")]

mod cases;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::{ApiResource, Scope, pinned_kind};
use reprieve::api::crds;
use reprieve::sandbox::{Options, Sandbox};
use serde_json::{Value, json};

use cases::{Case, base, full, rules};

/// What the CRDs say.
#[derive(Default)]
struct Found {
    /// Kind, path and message of each rule.
    rules: BTreeSet<(String, String, String)>,
    /// Kind, path, keyword and value of each limit of a spec.
    limits: Vec<(String, String, String, Value)>,
}

impl Found {
    fn everything() -> Self {
        let mut found = Self::default();
        for crd in crds() {
            let crd = serde_json::to_value(crd).expect("JSON");
            let kind = crd["spec"]["names"]["kind"].as_str().expect("a kind");
            for version in crd["spec"]["versions"].as_array().expect("versions") {
                found.walk(kind, "", &version["schema"]["openAPIV3Schema"]);
            }
        }
        found
    }

    fn walk(&mut self, kind: &str, path: &str, schema: &Value) {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            let message = rule["message"].as_str().unwrap_or_default();
            assert!(!message.is_empty(), "{kind}{path}: a rule without a message: {rule}");
            self.rules.insert((kind.to_owned(), path.to_owned(), message.to_owned()));
        }
        let keywords = [
            "pattern",
            "minLength",
            "maxLength",
            "minimum",
            "maximum",
            "minItems",
            "maxItems",
            "enum",
            "required",
            "x-kubernetes-list-type",
        ];
        for keyword in keywords.into_iter().filter(|_| path.starts_with(".spec")) {
            let value = &schema[keyword];
            let each = match (keyword, value) {
                ("required", Value::Array(fields)) => fields.clone(),
                ("x-kubernetes-list-type", list) if list == "atomic" => vec![],
                (_, Value::Null) => vec![],
                (_, value) => vec![value.clone()],
            };
            for value in each {
                self.limits.push((kind.to_owned(), path.to_owned(), keyword.to_owned(), value));
            }
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            self.walk(kind, &format!("{path}.{name}"), property);
        }
        if schema["items"].is_object() {
            self.walk(kind, &format!("{path}[]"), &schema["items"]);
        }
        if schema["additionalProperties"].is_object() {
            self.walk(kind, &format!("{path}{{}}"), &schema["additionalProperties"]);
        }
    }
}

#[test]
fn each_rule_has_a_case_and_each_case_a_rule() {
    let found = Found::everything().rules;
    let tried: BTreeSet<_> = rules()
        .into_iter()
        .map(|case| (case.kind.to_owned(), case.path.to_owned(), case.message.to_owned()))
        .collect();
    let untried: Vec<_> = found.difference(&tried).collect();
    assert!(untried.is_empty(), "rules that no case tries, to add to `rules`: {untried:#?}");
    let unknown: Vec<_> = tried.difference(&found).collect();
    assert!(unknown.is_empty(), "cases of rules that no CRD has: {unknown:#?}");
    // People write specs; what the operator records in a status must not be refused.
    assert!(found.iter().all(|(_, path, _)| !path.starts_with(".status")), "{found:#?}");
}

#[tokio::test]
async fn rules_and_limits_let_the_good_through_and_refuse_the_bad() {
    let options = Options { nodes: 1, ..Options::new(env!("CARGO_BIN_EXE_reprieve")) };
    let Some(sandbox) = Sandbox::for_test_with(options).await else { return };
    let server = Server::start(&sandbox).await;
    let mut wrong = vec![];
    for case in rules() {
        wrong.extend(server.try_rule(&case).await.err());
    }
    let mut keywords: BTreeMap<String, usize> = BTreeMap::new();
    for (kind, path, keyword, limit) in Found::everything().limits {
        *keywords.entry(keyword.clone()).or_default() += 1;
        wrong.extend(server.try_limit(&kind, &path, &keyword, &limit).await.err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // A walk that finds nothing would have tried nothing.
    assert!(keywords.len() == 10 && keywords.values().sum::<usize>() > 60, "{keywords:?}");
    sandbox.stop().expect("the folder can be removed");
}

/// The API server with our kinds, and one object of each: [`base`].
struct Server(BTreeMap<String, Api<DynamicObject>>);

impl Server {
    async fn start(sandbox: &Sandbox) -> Self {
        let client = sandbox.admin();
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        for crd in crds() {
            definitions.create(&PostParams::default(), &crd).await.expect("a CRD");
        }
        let mut all = BTreeMap::new();
        for crd in crds() {
            let kind = crd.spec.names.kind;
            let api = served(&client, &kind).await;
            let mut twins = vec![base(&kind)];
            if ["DeletionRequest", "Restore"].contains(&kind.as_str()) {
                let cancelled = json!({"/metadata/name": "cancelled", "/spec/cancel": true});
                twins.push(changed(&kind, &cancelled));
            }
            for twin in twins {
                let deadline = Instant::now() + Duration::from_secs(30);
                // A kind is served a moment after it is established.
                let live = loop {
                    match create(&api, &twin, false).await {
                        Ok(live) => break live,
                        Err(error) => assert!(Instant::now() < deadline, "{kind}: {error}"),
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                };
                // It has every field, and none that the kind does not know.
                assert_eq!(live.data["spec"], twin["spec"], "{kind}");
            }
            all.insert(kind, api);
        }
        Self(all)
    }

    async fn try_rule(&self, case: &Case) -> Result<(), String> {
        let what = format!("{}{} {:?}", case.kind, case.path, case.message);
        let good = changed(case.kind, &case.good);
        self.send(&good, case.update).await.map_err(|e| format!("{what} refused {good}: {e:?}"))?;
        let bad = changed(case.kind, &case.bad);
        let answer = self.send(&bad, case.update).await;
        let Err((422, error)) = answer else {
            return Err(format!("{what}: expected 422 for {bad}; seen: {answer:?}"));
        };
        // It and no other.
        for (_, _, message) in Found::everything().rules {
            if error.contains(&message) != (message == case.message) {
                return Err(format!("{what}: expected its message alone for {bad}; seen: {error}"));
            }
        }
        Ok(())
    }

    async fn try_limit(
        &self,
        kind: &str,
        path: &str,
        keyword: &str,
        limit: &Value,
    ) -> Result<(), String> {
        let what = format!("{kind}{path} {keyword} {limit}");
        let mut object = full(kind);
        let pointer = path.replace("[]", ".0").replace('.', "/");
        let Some(field) = object.pointer_mut(&pointer).filter(|field| !field.is_null()) else {
            return Err(format!("{what}: `full` lacks the field"));
        };
        *field = broken(keyword, limit, field);
        let error = match self.send(&object, false).await {
            Err((422, error)) => error,
            answer => return Err(format!("{what}: expected 422 for {object}; seen: {answer:?}")),
        };
        let words = match keyword {
            "pattern" => "should match",
            "minLength" => "should be at least",
            "maxLength" => "Too long",
            "minimum" => "should be greater than or equal to",
            "maximum" => "should be less than or equal to",
            "minItems" => "should have at least",
            "maxItems" => "Too many",
            "enum" => "Unsupported value",
            "required" => "Required value",
            _ => "Duplicate value",
        };
        let field = path.trim_start_matches('.').replace("[]", "[0]");
        if !(error.contains(&field) && error.contains(words)) {
            return Err(format!("{what}: expected {field} with {words:?}; seen: {error}"));
        }
        Ok(())
    }

    /// A dry run: creates it, or puts it in the place of the object of that name.
    async fn send(&self, object: &Value, update: bool) -> Result<(), (u16, String)> {
        let api = &self.0[object["kind"].as_str().expect("a kind")];
        let mut object = object.clone();
        let result = if update {
            let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
            let live = api.get(&name).await.expect("it was created");
            object["metadata"]["resourceVersion"] = json!(live.metadata.resource_version);
            let object: DynamicObject = serde_json::from_value(object).expect("an object");
            let dry = PostParams { dry_run: true, ..Default::default() };
            api.replace(&name, &dry, &object).await.map(drop)
        } else {
            if object["metadata"]["name"] == "base" {
                object["metadata"]["name"] = json!("another");
            }
            create(api, &object, true).await.map(drop)
        };
        result.map_err(|error| match error {
            kube::Error::Api(status) => (status.code, status.message.clone()),
            other => panic!("no answer: {other}"),
        })
    }
}

async fn create(
    api: &Api<DynamicObject>,
    object: &Value,
    dry_run: bool,
) -> kube::Result<DynamicObject> {
    let object: DynamicObject = serde_json::from_value(object.clone()).expect("an object");
    api.create(&PostParams { dry_run, ..Default::default() }, &object).await
}

async fn served(client: &kube::Client, kind: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("reprieve.dev", "v1alpha1", kind);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let found: kube::Result<(ApiResource, _)> = pinned_kind(client, &kind).await;
        match found {
            Ok((resource, capabilities)) if capabilities.scope == Scope::Namespaced => {
                return Api::default_namespaced_with(client.clone(), &resource);
            }
            Ok((resource, _)) => return Api::all_with(client.clone(), &resource),
            Err(error) => assert!(Instant::now() < deadline, "{kind:?} is not served: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The object of [`base`] with these changes.
fn changed(kind: &str, changes: &Value) -> Value {
    let mut object = base(kind);
    for (pointer, value) in changes.as_object().expect("pointers with values") {
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
        let parent = object.pointer_mut(parent).and_then(Value::as_object_mut).expect("a parent");
        if value.is_null() {
            parent.remove(field).expect("a field that is there");
        } else {
            parent.insert(field.to_owned(), value.clone());
        }
    }
    object
}

/// What a field is to be so that it breaks the limit.
fn broken(keyword: &str, limit: &Value, field: &Value) -> Value {
    let number = || limit.as_f64().expect("a number") as i64;
    let count = || usize::try_from(number()).expect("a count");
    match keyword {
        // No pattern of ours lets a blank through alone.
        "pattern" => json!(" "),
        "minLength" => json!("a".repeat(count() - 1)),
        "maxLength" => json!("a".repeat(count() + 1)),
        "minimum" => json!(number() - 1),
        "maximum" => json!(number() + 1),
        "minItems" => json!(vec![&field[0]; count() - 1]),
        "maxItems" if field[0].is_string() => {
            json!((0..=count()).map(|n| format!("n{n}")).collect::<Vec<_>>())
        }
        "maxItems" => json!(vec![&field[0]; count() + 1]),
        "enum" => json!("Nonesuch"),
        "required" => {
            let mut field = field.clone();
            let fields = field.as_object_mut().expect("an object");
            fields.remove(limit.as_str().expect("a name")).expect("a field that is there");
            field
        }
        // A set, or a map by key.
        _ => json!([field[0], field[0]]),
    }
}
