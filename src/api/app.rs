//! App: one product instance inside a site.

use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Condition, Deletion, UnexpectedDelete, names};

/// What an App should be.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "reprieve.dev",
    version = "v1alpha1",
    kind = "App",
    plural = "apps",
    namespaced,
    shortname = "app",
    category = "reprieve",
    status = "AppStatus",
    derive = "PartialEq",
    selectable = ".spec.id",
    validation = Rule::new("self.metadata.name.size() <= 63").message("an App's name has at most 63 characters: it is the value of a label on its objects"),
    doc = "One product instance inside a site. It lives in a namespace of the site and owns the objects that its manifests describe. It is deleted through a DeletionRequest, never with `kubectl delete`.",
    printcolumn(
        name = "Id",
        type_ = "string",
        json_path = ".spec.id",
        description = "The platform's id of the app"
    ),
    printcolumn(
        name = "Product",
        type_ = "string",
        json_path = ".spec.product",
        description = "The product"
    ),
    printcolumn(
        name = "State",
        type_ = "string",
        json_path = ".status.state",
        description = "Active, PendingDeletion, Purging, Restoring or Degraded"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether every object is applied and ready"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        description = "What is missing",
        priority = "1"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since creation"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct AppSpec {
    /// The platform's id of the app: an opaque string of 1 to 253 printable ASCII characters
    /// without spaces. Immutable, and unique over Sites and Apps. Example: `app-0815`.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[!-~]+$"))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("id is immutable"))]
    pub id: String,
    /// The product that this is an instance of. Example: `wiki`.
    #[schemars(length(min = 1, max = 253))]
    pub product: String,
    /// The objects of the app, 1 to 500, each with `apiVersion`, `kind` and `metadata.name`. They
    /// are applied server-side into the App's namespace.
    #[schemars(schema_with = "manifests_schema")]
    pub manifests: Vec<Value>,
    /// The service account of the site's namespace by which the manifests are applied: an App can
    /// do what that account may do. Default `reprieve-app`.
    #[serde(default = "default_account")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: String,
}

fn default_account() -> String {
    names::APP_ACCOUNT.to_owned()
}

fn manifests_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 500,
        "x-kubernetes-list-type": "atomic",
        "items": {
            "type": "object",
            "x-kubernetes-embedded-resource": true,
            "x-kubernetes-preserve-unknown-fields": true
        }
    })
}

/// What is known of an App.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AppStatus {
    /// The generation of the spec that this status was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The state in one word, for people; programs read the conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<AppState>,
    /// The conditions, one of each type: `Ready`, `Reconciling`, `Stalled`.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The objects that were applied, with their UIDs: what the App owns. Those that left
    /// `spec.manifests` stay, marked as orphaned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<AppliedObject>,
    /// The manifests that are not applied as they are now, and why: the first 50. How many there
    /// are, the condition `Ready` says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub failures: Vec<ManifestFailure>,
    /// The deletion that is under way. Only the operator writes it, and the guard goes by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion: Option<Deletion>,
    /// The DELETE that got past the guard, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unexpected_delete: Option<UnexpectedDelete>,
}

/// The state of an App in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum AppState {
    /// In service, as its spec says.
    Active,
    /// Its site is held for deletion: intact, and can be released at once.
    PendingDeletion,
    /// Being purged. There is no way back but a Restore.
    Purging,
    /// Its site is being restored.
    Restoring,
    /// Not as its spec says; see the condition `Ready`.
    Degraded,
}

/// An object that an App applied.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct AppliedObject {
    /// API group and version. Example: `apps/v1`.
    pub api_version: String,
    /// Kind. Example: `Deployment`.
    pub kind: String,
    /// Name in the App's namespace.
    pub name: String,
    /// UID: what tells it from a later object of the same name.
    pub uid: String,
    /// What the object waits for to become ready. Absent: it is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// True for an object that is in `spec.manifests` no more. It is left alone; delete it, or
    /// remove its label `reprieve.dev/app`, and it leaves this list.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub orphaned: bool,
    /// Digest of the manifest as it was applied: the operator applies again what differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// Digest of the fields that the App owned then, by `metadata.managedFields`: the operator
    /// knows by it whether somebody has changed one since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<String>,
}

/// A manifest that is not applied as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ManifestFailure {
    /// Its place in `spec.manifests`, from 0.
    pub index: i64,
    /// Kind. Empty where the manifest has none.
    #[serde(default)]
    pub kind: String,
    /// Name. Empty where the manifest has none.
    #[serde(default)]
    pub name: String,
    /// Why, as one CamelCase word that programs can match. Example: `NotOwned`.
    pub reason: String,
    /// Why, in words.
    pub message: String,
}
