//! One App of a site, to be restored by itself. Pure.

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
