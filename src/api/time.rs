//! The time type of the project's kinds, and the one place where Kubernetes' own is converted.

use std::borrow::Cow;
use std::fmt;

use chrono::{DateTime, SecondsFormat, SubsecRound, TimeDelta, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time, in UTC, with the resolution of one second that the Kubernetes API has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(DateTime<Utc>);

impl Time {
    /// This time and `seconds` more; the greatest time there is, when that overflows.
    pub fn plus_seconds(self, seconds: i64) -> Self {
        TimeDelta::try_seconds(seconds)
            .and_then(|delta| self.0.checked_add_signed(delta))
            .map_or(Self(DateTime::<Utc>::MAX_UTC.trunc_subsecs(0)), Self)
    }

    /// The time in chrono's own type.
    pub fn utc(self) -> DateTime<Utc> {
        self.0
    }

    /// Seconds from `earlier` to this time; negative when `earlier` is later.
    pub fn seconds_since(self, earlier: Self) -> i64 {
        (self.0 - earlier.0).num_seconds()
    }
}

impl From<DateTime<Utc>> for Time {
    fn from(time: DateTime<Utc>) -> Self {
        Self(time.trunc_subsecs(0))
    }
}

impl From<&meta::Time> for Time {
    fn from(time: &meta::Time) -> Self {
        Self(DateTime::from_timestamp(time.0.as_second(), 0).unwrap_or(DateTime::<Utc>::MIN_UTC))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_rfc3339_opts(SecondsFormat::Secs, true))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        DateTime::<Utc>::deserialize(deserializer).map(Self::from)
    }
}

impl JsonSchema for Time {
    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_resolution_of_the_api() {
        let time: Time = serde_json::from_str("\"2022-04-05T07:38:00.987Z\"").unwrap();
        assert_eq!(serde_json::to_string(&time).unwrap(), "\"2022-04-05T07:38:00Z\"");
    }

    #[test]
    fn adding_more_than_there_is_saturates() {
        let time: Time = serde_json::from_str("\"2022-04-05T07:38:00Z\"").unwrap();
        assert!(time.plus_seconds(i64::MAX) > time);
        assert_eq!(time.plus_seconds(90).seconds_since(time), 90);
    }
}
