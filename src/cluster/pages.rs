//! Lists that are read page by page.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube::api::ListParams;

/// How far a list was read.
#[derive(Debug)]
pub struct Pages(Option<ListParams>);

impl Pages {
    /// A list of which nothing was read, with at most so many objects on a page.
    pub fn of(limit: u32) -> Self {
        Self(Some(ListParams::default().limit(limit)))
    }

    /// What to ask for next. None: the last page was read.
    pub fn next(&self) -> Option<&ListParams> {
        self.0.as_ref()
    }

    /// Turns this page, which was read.
    pub fn turn(&mut self, page: &ListMeta) {
        let token = page.continue_.as_deref().filter(|token| !token.is_empty());
        self.0 = self.0.take().zip(token).map(|(params, token)| params.continue_token(token));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_asked_for_once() {
        let said = |token: Option<&str>| ListMeta {
            continue_: token.map(str::to_owned),
            ..ListMeta::default()
        };
        let mut pages = Pages::of(7);
        let asked = |pages: &Pages| pages.next().map(|p| (p.limit, p.continue_token.clone()));
        assert_eq!(asked(&pages), Some((Some(7), None)));
        pages.turn(&said(Some("second")));
        assert_eq!(asked(&pages), Some((Some(7), Some("second".to_owned()))));
        pages.turn(&said(Some("third")));
        assert_eq!(asked(&pages), Some((Some(7), Some("third".to_owned()))));
        // The API server says it either way.
        for last in [None, Some("")] {
            let mut pages = Pages::of(7);
            pages.turn(&said(last));
            assert_eq!(asked(&pages), None);
        }
    }
}
