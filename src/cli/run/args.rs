//! The flags of `reprieve run`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::cluster::lease::Terms;
use crate::cluster::{DEFAULT_CONCURRENCY, chain};
use crate::store::StoreArgs;

/// Arguments of `reprieve run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Kubeconfig by which to reach the cluster. Default: the pod's service account, or where
    /// there is none, $KUBECONFIG or ~/.kube/config.
    #[arg(long, env = "REPRIEVE_KUBECONFIG", value_name = "PATH")]
    pub(super) kubeconfig: Option<PathBuf>,

    #[command(flatten)]
    pub(super) store: StoreArgs,

    /// Where to serve /livez, /readyz and /metrics, without TLS and without authentication.
    #[arg(long, env = "REPRIEVE_LISTEN", value_name = "ADDR:PORT", default_value = "0.0.0.0:8080")]
    pub(super) listen: SocketAddr,

    /// Objects of one kind that may be worked on at the same time, 1 to 256. More is faster for a
    /// large fleet, and asks more of the API server.
    #[arg(
        long,
        env = "REPRIEVE_CONCURRENCY",
        value_name = "NUMBER",
        default_value_t = DEFAULT_CONCURRENCY,
        value_parser = clap::value_parser!(u16).range(1..=256)
    )]
    pub(super) concurrency: u16,

    /// How long the others wait for the operator that holds the lease, once it stopped renewing.
    /// Whole seconds, as in 15s. Of several operators one works and the others stand by, whether
    /// they run as replicas or were started twice by mistake; this cannot be turned off.
    #[arg(
        long,
        env = "REPRIEVE_LEADER_ELECT_LEASE_DURATION",
        value_name = "DURATION",
        default_value = "15s",
        value_parser = duration
    )]
    pub(super) leader_elect_lease_duration: Duration,

    /// How long the operator that holds the lease goes on working without having renewed it.
    /// Shorter than the lease duration: past it, nothing is written any more.
    #[arg(
        long,
        env = "REPRIEVE_LEADER_ELECT_RENEW_DEADLINE",
        value_name = "DURATION",
        default_value = "10s",
        value_parser = duration
    )]
    pub(super) leader_elect_renew_deadline: Duration,

    /// Pause between two attempts to acquire or renew the lease. At most half of the renew
    /// deadline.
    #[arg(
        long,
        env = "REPRIEVE_LEADER_ELECT_RETRY_PERIOD",
        value_name = "DURATION",
        default_value = "2s",
        value_parser = duration
    )]
    pub(super) leader_elect_retry_period: Duration,

    /// Form of the log on standard error.
    #[arg(long, env = "REPRIEVE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub(super) log_format: LogFormat,

    /// What to log, in the words of tracing's EnvFilter. Example: info,reprieve=debug
    #[arg(long, env = "REPRIEVE_LOG", value_name = "FILTER", default_value = "info")]
    pub(super) log: String,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line, for machines.
    Json,
}

impl Args {
    /// How the lease is kept.
    pub(super) fn terms(&self) -> Terms {
        Terms {
            duration: self.leader_elect_lease_duration,
            renew_deadline: self.leader_elect_renew_deadline,
            retry_period: self.leader_elect_retry_period,
        }
    }

    /// The log filter, once all the flags fit together.
    ///
    /// # Errors
    /// What is wrong with them, in one line.
    pub(super) fn check(&self) -> Result<EnvFilter, String> {
        self.terms().check().map_err(|why| format!("--leader-elect-…: {why}"))?;
        EnvFilter::try_new(&self.log).map_err(|error| {
            let why = chain(&error);
            format!("--log {:?} is no log filter, as info,reprieve=debug is: {why}", self.log)
        })
    }
}

/// A duration as Kubernetes' own flags take it, with one unit.
fn duration(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match &text[number.len()..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        _ => return Err("a number with a unit is needed: 500ms, 15s or 1m".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "no whole number before the unit".to_owned())?;
    number
        .checked_mul(unit)
        .filter(|ms| *ms <= 3_600_000)
        .map(Duration::from_millis)
        .ok_or_else(|| "at most 60m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("15s"), Ok(Duration::from_secs(15)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1m"), Ok(Duration::from_secs(60)));
        for text in ["", "15", "s", "-1s", "1.5s", "15 s", "1h", "99999999999999999999s", "61m"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
