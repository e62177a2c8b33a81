//! Alertmanager's API, version 2: which alerts fire. One answer serves every request that asks at
//! about the same time.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use reqwest::header::{ACCEPT, CACHE_CONTROL, DATE};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, RequestBuilder, StatusCode};
use serde::Deserialize;

use super::alerts::{Alert, Answer, Answers, sources};
use super::observe::PolicyFacts;
use crate::api::{Alertmanager, Plan, Time, names};
use crate::cluster::metrics::Source;
use crate::cluster::{Context, chain};

/// Type of the Secrets that may be used: a policy must not be able to send any other Secret of the
/// operator's namespace to a place of its choice.
const SECRET_TYPE: &str = "reprieve.dev/alertmanager";
/// How old an answer may be while people or the window are waited for.
const AGE: Duration = Duration::from_secs(5);
/// The largest answer that is read, in bytes.
const LARGEST: usize = 16 << 20;
/// Every state: that an alert is silenced, inhibited or not yet sorted hides nothing.
const QUERY: &str = "active=true&silenced=true&inhibited=true&unprocessed=true";

/// The sources of alerts, each with its last answer.
#[derive(Debug, Default)]
pub(super) struct Sources(Mutex<HashMap<Alertmanager, Arc<Slot>>>);

type Slot = tokio::sync::Mutex<State>;

#[derive(Debug, Default)]
struct State {
    /// The last answer, and when the question was sent.
    last: Option<(Instant, Arc<Answer>)>,
    /// The client, and the authorities that it was made with: to read those of the system takes a
    /// while.
    client: Cached,
}

impl Sources {
    /// What the sources answer that a plan must be clear by: nothing before there is one, so that a
    /// dry run does not wait for them. `begins`: something is to be purged, and a memory of seconds
    /// is too old.
    pub async fn ask_for(
        &self,
        ctx: &Context,
        plan: Option<&Plan>,
        policies: &BTreeMap<String, PolicyFacts>,
        begins: bool,
    ) -> Answers {
        let Some(head) = plan.and_then(|plan| plan.head.as_ref()) else { return vec![] };
        let now = policies.get(&head.policy_name).and_then(|p| p.spec.alerts.as_ref());
        let wanted = sources([head.policy.alerts.as_ref(), now].into_iter());
        self.ask(ctx, wanted, if begins { Duration::ZERO } else { AGE }).await
    }

    /// What these sources answer, by a question that was sent at most `max_age` ago.
    async fn ask(&self, ctx: &Context, sources: Vec<Alertmanager>, max_age: Duration) -> Answers {
        let asked = sources.into_iter().map(async |source| {
            let answer = self.ask_one(ctx, &source, max_age).await;
            (source, answer)
        });
        futures::future::join_all(asked).await
    }

    async fn ask_one(
        &self,
        ctx: &Context,
        source: &Alertmanager,
        max_age: Duration,
    ) -> Arc<Answer> {
        let now = Instant::now();
        let oldest = now.checked_sub(max_age).unwrap_or(now);
        let slot = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(source.clone()).or_default().clone()
        };
        // Whoever waits here takes the answer of who went before, if that was asked since.
        let mut slot = slot.lock().await;
        if let Some((at, answer)) = slot.last.as_ref()
            && *at >= oldest
        {
            return answer.clone();
        }
        let at = Instant::now();
        let answer = Arc::new(ask(ctx, source, &mut slot.client).await);
        let is_up = |answer: &Answer| matches!(answer, Answer::Alerts { .. });
        let up = is_up(&answer);
        let was_up = slot.last.as_ref().is_none_or(|(_, last)| is_up(last));
        let label = Source { url: source.url.clone() };
        ctx.metrics.alert_source_up.get_or_create(&label).set(i64::from(up));
        if !up && was_up {
            tracing::warn!(url = source.url, ?answer, "no alerts from the source of alerts");
        }
        slot.last = Some((at, answer.clone()));
        answer
    }
}

type Cached = Option<(Option<Vec<u8>>, Client)>;

async fn ask(ctx: &Context, source: &Alertmanager, client: &mut Cached) -> Answer {
    let limit = Duration::from_secs(source.timeout_seconds.clamp(1, 30).unsigned_abs());
    let late = || Answer::Down(format!("{} did not answer within {limit:?}", source.url));
    let asked = ctx.now();
    let answer = tokio::time::timeout(limit, try_ask(ctx, source, asked, client)).await;
    answer.unwrap_or_else(|_| late())
}

async fn try_ask(ctx: &Context, source: &Alertmanager, asked: Time, client: &mut Cached) -> Answer {
    let secret = match secret(ctx, source).await {
        Ok(secret) => secret,
        Err(why) => return Answer::Down(why),
    };
    let request = match request(source, &secret, client) {
        Ok(request) => request,
        Err(why) => return Answer::Down(why),
    };
    let url = &source.url;
    let mut response = match request.send().await {
        Ok(response) => response,
        Err(error) => return Answer::Down(chain(&error)),
    };
    let status = response.status();
    if status.is_redirection() {
        return Answer::Invalid(format!("{url} redirects ({status}): name the place itself"));
    }
    if status != StatusCode::OK {
        return Answer::Down(format!("{url} answers {status}"));
    }
    let date = response.headers().get(DATE).and_then(|date| date.to_str().ok());
    let answered = date
        .and_then(|date| DateTime::parse_from_rfc2822(date).ok())
        .map(|date| Time::from(date.to_utc()));
    let mut body = vec![];
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > LARGEST => {
                return Answer::Invalid(format!("the answer of {url} is larger than 16 MiB"));
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(error) => {
                let why = chain(&error);
                return Answer::Invalid(format!("the answer of {url} broke off: {why}"));
            }
        }
    }
    match parse(&body) {
        Ok(all) => Answer::Alerts { all, asked, answered },
        Err(why) => Answer::Invalid(format!("{url} answers no list of alerts: {why}")),
    }
}

fn client(ca: Option<&[u8]>) -> Result<Client, String> {
    // A redirect could hand the token to somebody else.
    let mut builder = Client::builder()
        .redirect(Policy::none())
        .user_agent(concat!("reprieve/", env!("CARGO_PKG_VERSION")));
    if let Some(ca) = ca {
        let ca = Certificate::from_pem_bundle(ca)
            .map_err(|error| format!("ca.crt of the Secret cannot be read: {}", chain(&error)))?;
        builder = builder.tls_certs_only(ca);
    }
    builder.build().map_err(|error| chain(&error))
}

fn request(
    source: &Alertmanager,
    secret: &Credentials,
    cached: &mut Cached,
) -> Result<RequestBuilder, String> {
    let client = match cached {
        Some((ca, client)) if *ca == secret.ca => client.clone(),
        _ => {
            let client = client(secret.ca.as_deref())?;
            *cached = Some((secret.ca.clone(), client.clone()));
            client
        }
    };
    let url = format!("{}/api/v2/alerts?{QUERY}", source.url.trim_end_matches('/'));
    let mut request = client.get(url).header(ACCEPT, "application/json");
    // No answer of a proxy's memory.
    request = request.header(CACHE_CONTROL, "no-cache");
    if let Some(token) = &secret.token {
        request = request.bearer_auth(token);
    } else if let Some((user, password)) = &secret.user {
        request = request.basic_auth(user, Some(password));
    }
    Ok(request)
}

#[derive(Default)]
struct Credentials {
    token: Option<String>,
    user: Option<(String, String)>,
    ca: Option<Vec<u8>>,
}

/// What the Secret of a source holds. Read anew for each question: tokens are changed.
async fn secret(ctx: &Context, source: &Alertmanager) -> Result<Credentials, String> {
    let Some(reference) = &source.secret_ref else { return Ok(Credentials::default()) };
    let (name, namespace) = (&reference.name, names::OPERATOR_NAMESPACE);
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), namespace);
    let secret = match api.get_opt(name).await {
        Ok(Some(secret)) => secret,
        Ok(None) => {
            return Err(format!(
                "there is no Secret {name} in {namespace}: kubectl create secret generic {name} -n {namespace} --type={SECRET_TYPE} --from-literal=token=…"
            ));
        }
        Err(error) => return Err(format!("cannot read Secret {name}: {}", chain(&error))),
    };
    if secret.type_.as_deref() != Some(SECRET_TYPE) {
        return Err(format!("Secret {name} in {namespace} is not of type {SECRET_TYPE}"));
    }
    let data = secret.data.unwrap_or_default();
    let text = |key: &str| {
        let text = data.get(key).and_then(|value| String::from_utf8(value.0.clone()).ok());
        // An editor leaves a newline, which no header can have.
        text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    Ok(Credentials {
        token: text("token"),
        user: text("username").map(|user| (user, text("password").unwrap_or_default())),
        ca: data.get("ca.crt").map(|ca| ca.0.clone()),
    })
}

/// An alert, as the API requires it to be: what lacks one of these is something else.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GettableAlert {
    labels: BTreeMap<String, String>,
    updated_at: DateTime<Utc>,
    status: AlertStatus,
}

#[derive(Deserialize)]
struct AlertStatus {
    state: String,
}

fn parse(body: &[u8]) -> Result<Vec<Alert>, String> {
    let all: Vec<GettableAlert> =
        serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let alert = |GettableAlert { labels, updated_at, status }: GettableAlert| {
        let known = ["active", "suppressed", "unprocessed"].contains(&status.state.as_str());
        known
            .then(|| Alert { labels, updated: updated_at.into() })
            .ok_or_else(|| format!("an alert in state {:?}", status.state))
    };
    all.into_iter().map(alert).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_list_of_alerts_or_cannot_be_read() {
        let good = r#"[{"labels":{"alertname":"A"},"updatedAt":"2026-01-02T03:04:05.678Z",
            "startsAt":"2026-01-02T03:04:05Z","status":{"state":"suppressed","silencedBy":["x"]}}]"#;
        let alerts = parse(good.as_bytes()).unwrap();
        assert_eq!(alerts[0].labels["alertname"], "A");
        assert_eq!(parse(b"[]"), Ok(vec![]));
        for bad in [
            String::new(),
            "null".to_owned(),
            "{}".to_owned(),
            "<html>".to_owned(),
            good[..good.len() - 1].to_owned(),
            format!("{good}[]"),
            good.replace("suppressed", "resolved"),
            good.replace("updatedAt", "updated"),
            good.replace("labels", "label"),
            good.replace("\"A\"", "1"),
            good.replace("2026-01-02T03:04:05.678Z", "yesterday"),
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
