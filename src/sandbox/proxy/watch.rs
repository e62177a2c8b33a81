//! The events of a watch, one JSON object a line: passed on, lost, merged, cut off.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::channel::mpsc::{self, UnboundedSender};
use futures::stream::StreamExt as _;
use serde_json::{Value, json};

use super::answer::{Broken, Pieces, broken_soon};
use super::rule::Fault;
use super::state::State;

/// What is left of these events under this fault. Nothing passes while the way is cut.
pub(super) fn edit(pieces: Pieces, fault: Option<Fault>, state: Arc<State>) -> Pieces {
    let (sender, receiver) = mpsc::unbounded();
    // It ends with the watch: when nobody reads any more, sending fails.
    tokio::spawn(async move {
        let mut lines = Lines { pieces, rest: BytesMut::new() };
        let out = Out { sender, state };
        match fault {
            Some(Fault::DropEvents(each)) => drop_events(&mut lines, &out, each.max(1)).await,
            Some(Fault::MergeEvents(time)) => merge(&mut lines, &out, time).await,
            Some(Fault::Truncate) => truncate(&mut lines, &out).await,
            Some(Fault::GoneAfter(count)) => gone(&mut lines, &out, count).await,
            _ => {
                while let Some(line) = lines.next().await
                    && out.send(line).await
                {}
            }
        }
    });
    receiver.boxed()
}

struct Lines {
    pieces: Pieces,
    rest: BytesMut,
}

impl Lines {
    /// The next whole line, with its end.
    async fn next(&mut self) -> Option<Result<Bytes, Broken>> {
        loop {
            if let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
                return Some(Ok(self.rest.split_to(end + 1).freeze()));
            }
            match self.pieces.next().await? {
                Ok(piece) => self.rest.extend_from_slice(&piece),
                Err(broken) => return Some(Err(broken)),
            }
        }
    }
}

struct Out {
    sender: UnboundedSender<Result<Bytes, Broken>>,
    state: Arc<State>,
}

impl Out {
    /// Sends it on; tells whether there is somebody to read more.
    async fn send(&self, line: Result<Bytes, Broken>) -> bool {
        let good = line.is_ok();
        self.state.until_open().await;
        self.sender.unbounded_send(line).is_ok() && good
    }
}

async fn drop_events(lines: &mut Lines, out: &Out, each: usize) {
    let mut seen = 0;
    while let Some(line) = lines.next().await {
        // A bookmark is no event: to lose it loses nothing.
        seen += usize::from(!is_type(&line, "BOOKMARK"));
        if (line.is_err() || is_type(&line, "BOOKMARK") || seen % each == 0)
            && !out.send(line).await
        {
            return;
        }
    }
}

fn is_type(line: &Result<Bytes, Broken>, type_: &str) -> bool {
    let Ok(line) = line else { return false };
    serde_json::from_slice::<Value>(line).is_ok_and(|event| event["type"] == type_)
}

async fn merge(lines: &mut Lines, out: &Out, time: Duration) {
    loop {
        let mut last: BTreeMap<String, (usize, Value)> = BTreeMap::new();
        let mut end = None;
        let mut order = 0;
        let enough = tokio::time::sleep(time);
        tokio::pin!(enough);
        while end.is_none() {
            let line = tokio::select! {
                line = lines.next() => line,
                () = &mut enough => break,
            };
            match line {
                Some(Ok(line)) => {
                    let mut event: Value = serde_json::from_slice(&line).unwrap_or_default();
                    let uid = event["object"]["metadata"]["uid"].as_str().unwrap_or_default();
                    let uid = uid.to_owned();
                    let added = last.get(&uid).is_some_and(|(_, old)| old["type"] == "ADDED");
                    if added && event["type"] == "MODIFIED" {
                        event["type"] = json!("ADDED");
                    }
                    order += 1;
                    if added && event["type"] == "DELETED" {
                        last.remove(&uid);
                    } else {
                        last.insert(uid, (order, event));
                    }
                }
                Some(Err(broken)) => end = Some(Some(broken)),
                None => end = Some(None),
            }
        }
        let mut events: Vec<_> = last.into_values().collect();
        events.sort_by_key(|(order, _)| *order);
        for (_, event) in events {
            if !out.send(Ok(format!("{event}\n").into())).await {
                return;
            }
        }
        match end {
            None if out.sender.is_closed() => return,
            None => {}
            Some(broken) => {
                if let Some(broken) = broken {
                    out.send(Err(broken)).await;
                }
                return;
            }
        }
    }
}

async fn truncate(lines: &mut Lines, out: &Out) {
    if let Some(Ok(line)) = lines.next().await
        && out.send(Ok(line.slice(..line.len() / 2))).await
    {
        let _ = out.send(broken_soon().next().await.unwrap_or(Err(Broken))).await;
    }
}

async fn gone(lines: &mut Lines, out: &Out, count: usize) {
    for _ in 0..count {
        let Some(line) = lines.next().await else { return };
        if !out.send(line).await {
            return;
        }
    }
    let event = json!({"type": "ERROR", "object": {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "too old resource version: 1 (2)", "reason": "Expired", "code": 410,
    }});
    out.send(Ok(format!("{event}\n").into())).await;
}
