//! The names that the rest of the code, the guard and the documents share: group, finalizer,
//! labels, annotations, accounts.

/// The API group of every kind.
pub const GROUP: &str = "reprieve.dev";
/// The version of every kind.
pub const VERSION: &str = "v1alpha1";
/// Group and version, as `apiVersion` has them.
pub const API_VERSION: &str = "reprieve.dev/v1alpha1";

/// The finalizer on Sites, Apps and open DeletionRequests: the last fence.
pub const FINALIZER: &str = "reprieve.dev/retention";

/// Label on a namespace: the name of the Site that owns it. The guard knows a site's namespace by
/// it, so only the operator may set, change or remove it.
pub const LABEL_SITE: &str = "reprieve.dev/site";
/// Label on the objects that an App applied: the App's name. For people; the App's status has the
/// UIDs that count.
pub const LABEL_APP: &str = "reprieve.dev/app";
/// Label on a PersistentVolume whose disk is kept for a Site: what it is kept for. Only the
/// operator may set, change or remove it, delete such a volume, or change its reclaim policy.
pub const LABEL_KEPT: &str = "reprieve.dev/kept";

/// Label on a scratch namespace of a drill: the UID of the RestoreDrill. Only the operator sets it,
/// when it creates the namespace; nobody sets it later, changes it or takes it off.
pub const LABEL_DRILL: &str = "reprieve.dev/drill";
/// Annotation on a scratch namespace of a drill, for people: the site and the namespace that it was
/// made of.
pub const ANNOTATION_DRILL_OF: &str = "reprieve.dev/drill-of";
/// Label on a Backup that is to be drilled by a RestoreDrill of its own, once it is verified; its
/// value is `true`.
pub const LABEL_DRILL_ASKED: &str = "reprieve.dev/drill-asked";
/// Annotation on a RestoreDrill by which somebody asks for a run: any value that it has not had.
pub const ANNOTATION_RUN_NOW: &str = "reprieve.dev/run-now";
/// Label on a Backup that was made for a DeletionRequest: the UID of that request.
pub const LABEL_REQUEST_UID: &str = "reprieve.dev/request-uid";
/// Label on the Job of a hook: the hook's name. What carries it is in no backup.
pub const LABEL_HOOK: &str = "reprieve.dev/hook";
/// Annotation on the Job of a hook: the backup or restore that it is run for.
pub const ANNOTATION_HOOK_OF: &str = "reprieve.dev/hook-of";
/// Annotation on what a hold has changed: workloads, claims' volumes, contents of snapshots. A JSON
/// object with what the fields were, and the UIDs of the DeletionRequests that it is held for; see
/// `docs/deletion.md`.
pub const ANNOTATION_FORMER: &str = "reprieve.dev/former";
/// Annotation on a volume with the label `reprieve.dev/kept` by which people keep its disk for good:
/// any value, best why. As long as it is there, the volume does not get its former reclaim policy
/// back when the backup expires.
pub const ANNOTATION_KEEP_DISK: &str = "reprieve.dev/keep-disk";

/// Annotation on an existing namespace by which it consents to be taken in: the Site's name. And
/// on an existing object, to be taken in by an App: the App's name.
pub const ANNOTATION_ADOPT: &str = "reprieve.dev/adopt";
/// Annotation on a namespace that is being purged: the UID of the DeletionRequest. Only the
/// operator may set it, and only with it may a site's namespace be deleted.
pub const ANNOTATION_PURGE: &str = "reprieve.dev/purge";
/// Annotation on a Site, or on an App that is restored alone, that is being restored: the Restore's
/// name. Reconcilers stand still.
pub const ANNOTATION_RESTORE: &str = "reprieve.dev/restore";
/// Annotation on the namespaces of a Site that was deleted past the guard and let go: the record
/// from which it is created anew. Only the operator may set it.
pub const ANNOTATION_RECORD: &str = "reprieve.dev/record";
/// Annotation on a Site or an App that is being created anew after a delete past the guard: the UID
/// of the one before it. Reconcilers stand still.
pub const ANNOTATION_RECREATE: &str = "reprieve.dev/recreate";
/// Annotation on a new Site whose id the store knows from backups: `true` says that it shall begin
/// anew, empty, instead of waiting for its restore.
pub const ANNOTATION_START_EMPTY: &str = "reprieve.dev/start-empty";
/// Label on the DeletionRequests that the operator opens for what was deleted past the guard; its
/// value is `true`.
pub const LABEL_UNEXPECTED_DELETE: &str = "reprieve.dev/unexpected-delete";
/// Annotation on a DeletionRequest: the user who created it, as admission saw them.
pub const ANNOTATION_REQUESTED_BY: &str = "reprieve.dev/requested-by";
/// Annotation on a DeletionRequest: why it was rejected, in words.
pub const ANNOTATION_REJECTION_REASON: &str = "reprieve.dev/rejection-reason";
/// Prefix of annotations that approve: `approval.reprieve.dev/<any-name>: "<digest> <user name>"`.
pub const APPROVAL_PREFIX: &str = "approval.reprieve.dev/";
/// Prefix of annotations that reject; same form as approvals.
pub const REJECTION_PREFIX: &str = "rejection.reprieve.dev/";

/// The operator's own namespace.
pub const OPERATOR_NAMESPACE: &str = "reprieve-system";
/// The operator's service account.
pub const OPERATOR_ACCOUNT: &str = "reprieve";
/// The operator's user name, as admission sees it.
pub const OPERATOR_USER: &str = "system:serviceaccount:reprieve-system:reprieve";
/// The Lease in the operator's namespace that the one operator which works holds.
pub const LEASE: &str = "reprieve";
/// The ConfigMap in the operator's namespace that tells what was purged lately, over all requests:
/// the rolling limit goes by it. Only the operator may write it, and nobody delete it.
pub const LEDGER: &str = "reprieve-purges";
/// Prefix of every service account's user name: a service account is not a person.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// Prefix of the users that Kubernetes itself names: nodes, controllers, nobody in particular.
pub const SYSTEM_PREFIX: &str = "system:";

/// The service account by which an App's manifests are applied, made in each site namespace, and
/// the name of the RoleBinding and ClusterRole that give it its rights.
pub const APP_ACCOUNT: &str = "reprieve-app";
/// The policy that a Site names when it names none.
pub const DEFAULT_POLICY: &str = "default";
/// The RBAC verb on `deletionrequests` that approvers need.
pub const VERB_APPROVE: &str = "approve";
/// The RBAC verb on `deletionpolicies` that making one weaker needs.
pub const VERB_WEAKEN: &str = "weaken";
/// The RBAC verb on `customresourcedefinitions` that changing ours needs.
pub const VERB_UPGRADE: &str = "upgrade";

/// The operator's field manager in server-side apply.
pub const FIELD_MANAGER: &str = "reprieve";
/// The field manager of what a hold changes in workloads, so that it can be told apart.
pub const HOLD_MANAGER: &str = "reprieve-hold";
/// The field manager of an App's manifests: what it owns of an object is the App's.
pub const APP_MANAGER: &str = "reprieve-app";
