//! Reasons: the CamelCase words that conditions, events and metric labels share.

use std::fmt;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Why something is as it is, as one word that programs can match.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// Every reason, for documents and metrics.
            pub const ALL: &[Reason] = &[$(Reason::$name,)+];

            /// The word.
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$name => stringify!($name),)+ }
            }
        }
    };
}

reasons! {
    // Sites and Apps.
    /// Everything is as the spec says.
    Ready,
    /// The operator is at work.
    Progressing,
    /// Applied, and waiting for the objects to become ready.
    ObjectsNotReady,
    /// The operator cannot go on without help.
    Stalled,
    /// Two entities have the same id.
    DuplicateId,
    /// A namespace belongs to another site, to the system, or did not consent.
    NamespaceNotAdoptable,
    /// A namespace is being deleted.
    NamespaceTerminating,
    /// A namespace of the site was deleted past the gates, and with it what it held.
    NamespaceLost,
    /// The account for Apps, or its binding, was removed and made again.
    AccountRestored,
    /// The binding of the account for Apps names other rights.
    AccountChanged,
    /// The App's service account does not exist.
    AccountMissing,
    /// The App's namespace belongs to no Site.
    NoSite,
    /// A manifest cannot be applied.
    InvalidManifest,
    /// The API server refused to apply a manifest.
    ApplyFailed,
    /// The App's account may not do what a manifest asks for.
    Forbidden,
    /// An object of that name lives and is not this App's.
    NotOwned,
    /// Somebody changed or deleted an object of the App; it was put back.
    DriftCorrected,
    /// Somebody changes a field again and again; it is left alone for a while.
    FieldContested,
    /// The object is so large that nothing can be added to it, not even a condition.
    TooLarge,
    /// An object left the manifests; it is left alone.
    Orphaned,
    /// The Site names a policy that does not exist.
    PolicyNotFound,
    /// Held or purged: reconciliation stands still.
    PendingDeletion,
    /// Being restored: reconciliation stands still.
    Restoring,
    /// The entity is being deleted past the gates; the finalizer holds it.
    UnexpectedDelete,
    /// The operator cannot read the object, and skips it.
    Unparsable,
    /// Deleted past the gates and let go: it is being created anew. Reconciliation stands still.
    Recreating,
    /// Created anew after a delete past the gates.
    Recreated,

    /// The store has backups of the id: a Restore must name it, or it must be told to begin anew.
    AwaitingRestore,

    // Gate 1, scope.
    /// Every id is known and of the declared kind.
    ScopeValid,
    /// An id names an entity of the other kind.
    EntityTypeMismatch,
    /// An id names nothing.
    UnknownId,
    /// An id names more than one entity.
    AmbiguousId,
    /// An entity is in another open request.
    InOtherRequest,
    /// The entities are under different policies.
    SeveralPolicies,
    /// The plan of so many entities does not fit the status of a request.
    PlanTooLarge,
    /// The entity is being deleted, restored or is not Active.
    EntityNotActive,

    // Gate 2, blast radius.
    /// Within every limit.
    WithinLimits,
    /// More entities than a hard limit allows.
    BlastRadiusExceeded,
    /// More entities than the default limit, and no `override`.
    OverrideRequired,
    /// An `override` where nothing needs one.
    OverrideNotNeeded,
    /// The window asked for is outside the policy's bounds.
    RetentionOutOfBounds,
    /// As many entities went lately, over all requests, as the rolling limit allows.
    RollingLimitReached,
    /// The ledger of the rolling limit is missing or cannot be read.
    LedgerUnavailable,

    // Gate 3, guard.
    /// Every admission policy is in force, unchanged.
    GuardInPlace,
    /// An admission policy or binding is absent, changed, or does not bite.
    GuardMissing,
    /// The guard was changed while the request was open: approvals are void.
    GuardChanged,

    // Gate 4, approval.
    /// Enough people approved the digest.
    QuorumReached,
    /// Not enough people approved the digest yet.
    AwaitingApprovals,
    /// Somebody said no.
    Rejected,
    /// Not approved in time.
    Expired,
    /// What the digest covers has changed.
    PlanChanged,

    // Gate 5, backup.
    /// Every entity has a verified backup that shows what lives.
    BackupsVerified,
    /// Backups are being made.
    BackingUp,
    /// A backup failed.
    BackupFailed,
    /// What lives has changed since the backup; another one is made.
    BackupOutdated,
    /// What lives cannot be compared with its backup: something of it, or the store, cannot be read.
    ComparisonFailed,
    /// A volume would go with its claim.
    VolumeNotRetained,

    // Gate 6, retention.
    /// The window has passed.
    WindowPassed,
    /// The window has not begun.
    WindowNotBegun,
    /// The window is running.
    WindowRunning,
    /// The operator's clock and the API server's disagree.
    ClocksDisagree,

    // Gate 7, alerts.
    /// No source of alerts is configured.
    NotConfigured,
    /// No unexpected alert fires, and the source of alerts is alive.
    AlertsClear,
    /// An alert fires that nobody expected.
    UnexpectedAlert,
    /// The source of alerts gives no answer.
    AlertSourceDown,
    /// What the source of alerts answers cannot be read.
    AlertSourceInvalid,
    /// The alert that always fires is not there, or is old.
    WatchdogMissing,
    /// A matcher of the policy cannot be read.
    InvalidMatcher,

    // The end of a request.
    /// It waits for an earlier gate.
    WaitingForEarlierGate,
    /// Every entity is gone.
    Purged,
    /// The entities go one by one.
    Purging,
    /// A user cancelled the request.
    CancelledByUser,
    /// An alert that nobody expected cancelled the request.
    CancelledByAlert,
    /// The request itself was deleted, which cancels it.
    RequestDeleted,
    /// The entity was released, as it was.
    Released,
    /// The entity is held.
    Held,
    /// Somebody puts back into service what is held.
    QuarantineContested,
    /// A user has changed what a hold had changed; their change wins.
    ChangedWhileHeld,
    /// What is held cannot be changed, or an object of a purge cannot be deleted.
    WriteRefused,
    /// A wave of the purge began.
    WaveBegun,
    /// The plan was made.
    Planned,
    /// An approval does not count.
    ApprovalIgnored,
    /// An approval counts.
    Approved,

    // Backup and Restore.
    /// Written to the store.
    Written,
    /// Read back, and every digest and count matched.
    Verified,
    /// What was read back differs.
    VerifyFailed,
    /// Backups are made by the schedule.
    Scheduled,
    /// The schedule or its time zone cannot be understood.
    InvalidSchedule,
    /// The schedule is suspended.
    Suspended,
    /// The archive is encrypted.
    Encrypted,
    /// The archive is not encrypted: Secrets lie readable in the store.
    NotEncrypted,
    /// The volume that a claim names is gone, or is another claim's.
    DiskMissing,
    /// The backup has expired, and its archive was deleted.
    BackupExpired,
    /// A kept disk gets its former reclaim policy back at a certain time: nothing needs it any more.
    DiskReleaseAnnounced,
    /// What was announced of a kept disk does not happen: something needs it again.
    DiskReleaseWithdrawn,
    /// A kept disk got its former reclaim policy back.
    DiskReleased,
    /// There is no such Site, or it is another one.
    SiteNotFound,
    /// The object store cannot be written or read.
    StoreUnavailable,
    /// The store's ledger has it as purged, and it lives: the cluster was set back.
    PurgedBefore,
    /// Objects of the site could not be listed.
    DiscoveryFailed,
    /// The archive is damaged or not what it says it is.
    ArchiveInvalid,
    /// The DeletionRequest is not there, or purged nothing.
    NothingToRestore,
    /// There is no Backup of that name.
    BackupNotFound,
    /// The Backup was not read back whole.
    BackupNotVerified,
    /// Several Backups of one site are named: which one counts is not for the operator to guess.
    SeveralBackups,
    /// The request is still deleting.
    RequestStillOpen,
    /// No backup of the id is as old as was asked for.
    NoBackupSoEarly,
    /// The time that was asked for has not come yet.
    TimeNotCome,
    /// An entry of the store's catalogue cannot be taken: damaged, unsigned or somebody else's.
    CatalogueEntryRefused,
    /// Another site of that name has a newer backup.
    NameTaken,
    /// It was purged for a DeletionRequest, and is left out.
    PurgedOnPurpose,
    /// It was brought back.
    Restored,
    /// A DeletionPolicy could not be brought back, or another one of its name lives.
    PolicyNotRestored,
    /// The App lives; nothing of it is touched.
    AppLives,
    /// The site lives; nothing is overwritten.
    SiteLives,
    /// An object of that name lives and is different; nothing is overwritten.
    Conflict,
    /// The API server refused to create the object.
    CreateFailed,
    /// A kind of the archive is not known to this cluster.
    KindMissing,
    /// Waiting for workloads to become ready again.
    WaitingForReady,
    /// The old object of that name is still being deleted.
    StillTerminating,
    /// An owner is in no backup: the reference to it was dropped.
    OwnerMissing,
    /// The cluster gave another address or volume, because the old one is taken or gone.
    Reassigned,
    /// Another manager has written a field since it was restored.
    ChangedSince,
    /// The field owners of an object could not be put back.
    FieldOwnersLost,
    /// It had run to its end, and was not run again.
    NotRunAgain,
    /// Some sites could not be restored.
    PartiallyFailed,
    /// The Restore has ended before the site was whole.
    RestoreStopped,

    // Hooks.
    /// The Jobs of every hook can be created.
    HooksValid,
    /// The API server does not take the Job of a hook.
    InvalidHook,
    /// A hook is under way.
    HookRunning,
    /// The Job of a hook completed.
    HookSucceeded,
    /// The Job of a hook failed.
    HookFailed,
    /// A hook took longer than it may, and was stopped.
    HookTimedOut,
    /// The Job of a hook could not be created.
    HookRefused,
    /// The Job of a hook was deleted before it had ended; it is not run again.
    HookLost,
    /// A hook was not to be run: the Site is held for a deletion.
    HookSkipped,

    // Drills.
    /// A run of a drill has begun.
    DrillStarted,
    /// Every site of the drill was restored, read back and is equal.
    Drilled,
    /// A site of the drill could not be restored, or is not equal.
    DrillFailed,
    /// The drill took longer than it may.
    DrillTimeout,
    /// The drill was stopped before it had ended: it, or its Restore, was deleted or cancelled.
    DrillStopped,
    /// Another drill runs; this one begins when that one has ended.
    OtherDrillRuns,
    /// No run of the drill has ended yet.
    NotDrilled,
    /// The policy asks for a drill of the backup, and it has not ended yet.
    DrillPending,
    /// The policy asks for a drill that succeeded lately, and none has.
    DrillOverdue,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
