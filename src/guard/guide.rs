//! `docs/guard.md`: who may do what, told from the policies themselves.

use std::fmt::Write as _;

use super::object::GuardPolicy;
use super::{optional_policies, policies};

const HEAD: &str = include_str!("guide.md");

/// The whole page.
pub fn guide() -> String {
    let mut text = HEAD.to_owned();
    text.push_str("\n## Who may do what\n\n");
    table(&mut text, &policies());
    text.push_str(
        "\nOptional, from `deploy/admission/optional/` (see the [threat model](threat-model.md)):\n\n",
    );
    table(&mut text, &optional_policies());
    text
}

fn table(text: &mut String, policies: &[GuardPolicy]) {
    text.push_str("| request | who may | everybody else is told, with the command | policy |\n");
    text.push_str("|---|---|---|---|\n");
    for policy in policies {
        for rule in &policy.rules {
            let _ = writeln!(
                text,
                "| {} | {} | {} | `{}` |",
                rule.what, rule.who, rule.message, policy.policy.name
            );
        }
    }
}
