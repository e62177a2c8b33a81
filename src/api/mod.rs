//! The kinds: their types, CEL rules, printer columns and reasons.
//!
//! Everything that a user reads or writes is named here, once. This room does no I/O and takes no
//! decisions: it must not name a client, a runtime or a clock.

mod app;
mod backup;
mod condition;
mod crds;
mod deletion_policy;
mod deletion_request;
mod hook;
pub mod names;
mod reason;
mod restore;
mod restore_drill;
mod site;
mod time;

pub use app::{App, AppSpec, AppState, AppStatus, AppliedObject, ManifestFailure};
pub use backup::{
    Backup, BackupPurpose, BackupSpec, BackupStatus, ChangedObjects, Protection, ReadVersions,
    SiteRef, VolumeProtection,
};
pub use condition::{Condition, ConditionStatus, ConditionType, Conditions};
pub use crds::{CRD_FILES, crds};
pub use deletion_policy::{
    Alertmanager, Alerts, BackupRequirement, BlastRadius, DeletionPolicy, DeletionPolicySpec,
    DeletionPolicyStatus, Environment, Quarantine, Quorum, Retention, Rolling, Waves,
};
pub use deletion_request::{
    Approval, DeletionRequest, DeletionRequestSpec, DeletionRequestStatus, EntityPhase, Override,
    Plan, PlanApp, PlanApplied, PlanBackup, PlanEntity, PlanHead, PlanSite, PlanTotals, Progress,
    Refusal, RefusalCount, Rejection, RequestState, RetentionWindow, Target, TargetKind, Wave,
};
pub use hook::{
    AfterRestoreHook, Hook, HookMetadata, HookState, HookStatus, HookTemplate, Hooks, OnHookError,
    RestoreHooks,
};
pub use reason::Reason;
pub use restore::{
    DrillSource, DrilledArchive, EstimateBasis, NotProved, ObjectCounts, OnConflict, Restore,
    RestoreFailure, RestoreIds, RestoreSource, RestoreSpec, RestoreStatus, RestoreStore,
    SiteCounts, SiteDrill, StageEstimate, VerifiedSite,
};
pub use restore_drill::{
    DrillOutcome, DrillRun, DrillSample, DrillStage, DrillState, DrillStrategy, DrillTrigger,
    RestoreDrill, RestoreDrillSpec, RestoreDrillStatus,
};
pub use site::{
    BackupSchedule, Deletion, DeletionPhase, Inventory, LastBackup, LastDrill, LastRestore,
    NamespaceRef, ObjectRef, RESTORE_STOPPED, Site, SiteRestore, SiteSpec, SiteState, SiteStatus,
    Tenant, UnexpectedDelete,
};
pub use time::Time;
