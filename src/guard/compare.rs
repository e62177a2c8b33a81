//! Compares what is live with what was generated.

use std::fmt;

use serde_json::Value;

/// The first place in which a live `spec` is not the generated one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where. Example: `spec.validations[0].expression`.
    pub path: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not as generated", self.path)
    }
}

/// The first difference between the generated `spec` of an object of the guard and the live one,
/// or none if they are equal. A field that is live and was not generated is a difference as well:
/// one `excludeResourceRules` would be enough to open the guard.
pub fn difference(expected: &Value, live: &Value) -> Option<Difference> {
    find("spec".to_owned(), expected, live).map(|path| Difference { path })
}

fn find(path: String, expected: &Value, live: &Value) -> Option<String> {
    match (expected, live) {
        (Value::Object(expected), Value::Object(live)) => expected
            .iter()
            .find_map(|(key, value)| {
                find(format!("{path}.{key}"), value, live.get(key).unwrap_or(&Value::Null))
            })
            .or_else(|| {
                let extra = live.keys().find(|key| !expected.contains_key(*key))?;
                Some(format!("{path}.{extra}"))
            }),
        (Value::Array(expected), Value::Array(live)) if expected.len() == live.len() => expected
            .iter()
            .zip(live)
            .enumerate()
            .find_map(|(i, (expected, live))| find(format!("{path}[{i}]"), expected, live)),
        _ => (expected != live).then_some(path),
    }
}
