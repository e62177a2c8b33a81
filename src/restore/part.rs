//! What is restored otherwise than as a whole site in its own place: one App of a site, or a site in
//! a drill. Pure.

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

/// A site that is restored into scratch namespaces, for a drill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrillPart {
    /// Name of the Site.
    pub site: String,
    /// UID of the RestoreDrill.
    pub drill_uid: String,
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
