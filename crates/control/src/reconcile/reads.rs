//! References whose target has not been seen: each is read from the API, once at a time.
//!
//! Invariants: an answer carries the point at which its read began, so an absence never answers a reference that was
//! made later; a read that keeps failing ends with the time for which references are waited for, so that it never
//! takes the place of others. Deliberately absent: what a reference that could not be read counts as.

use std::collections::{BTreeMap, VecDeque};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use serde_json::Value;
use tokio::time::Instant;
use weir_core::{Kind, ObjectKey, objects::Mark};

use super::REFERENCE_WAIT;
use crate::backoff::Backoff;
use crate::call::{CallError, Caller};
use crate::kinds::{Versions, collection, path};
use crate::source::trim::trim;
use crate::source::{RETRY_CAP, RETRY_FIRST};

/// Reads on their way at a time.
const IN_FLIGHT: usize = 32;

/// References that can be wanted at a time; more are counted, and wait out their time unread.
const MAX_WANTED: usize = 65_536;

/// What a read found.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) key: ObjectKey,
    pub(crate) mark: Mark,
    pub(crate) found: Found,
}

#[derive(Debug)]
pub(crate) enum Found {
    /// What is there: one object or none, or all grants of a namespace.
    Objects(Vec<Value>),
    /// The API could not be asked.
    Nothing,
}

pub(crate) struct Reads {
    caller: Caller,
    /// The only namespaces that are read; none: all.
    namespaces: Vec<String>,
    running: FuturesUnordered<BoxFuture<'static, Answer>>,
    queue: VecDeque<ObjectKey>,
    /// What is queued (false) or being read (true, then whether it is wanted again).
    open: BTreeMap<ObjectKey, Open>,
}

#[derive(Clone, Copy, PartialEq)]
enum Open {
    Queued,
    Reading,
    ReadingAndWanted,
}

impl Reads {
    pub(crate) fn new(caller: Caller, namespaces: Vec<String>) -> Reads {
        let (running, queue) = (FuturesUnordered::new(), VecDeque::new());
        Reads { caller, namespaces, running, queue, open: BTreeMap::new() }
    }

    /// Read this as soon as there is room; false if there are too many.
    pub(crate) fn want(&mut self, key: &ObjectKey) -> bool {
        if let Some(open) = self.open.get_mut(key) {
            if *open == Open::Reading {
                *open = Open::ReadingAndWanted;
            }
            return true;
        }
        if self.open.len() >= MAX_WANTED {
            return false;
        }
        self.open.insert(key.clone(), Open::Queued);
        self.queue.push_back(key.clone());
        true
    }

    /// Start what there is room for. Returns what needs no read, because its kind is not served or its namespace not
    /// ours to see.
    pub(crate) fn start(&mut self, versions: &Versions, mark: Mark) -> Vec<ObjectKey> {
        let mut unserved = Vec::new();
        while self.running.len() < IN_FLIGHT
            && let Some(key) = self.queue.pop_front()
        {
            let seen = key.namespace.is_empty()
                || self.namespaces.is_empty()
                || self.namespaces.contains(&key.namespace);
            let Some(path) = read_path(versions, &key).filter(|_| seen) else {
                self.open.remove(&key);
                unserved.push(key);
                continue;
            };
            self.open.insert(key.clone(), Open::Reading);
            self.running.push(Box::pin(read(self.caller.clone(), key, path, mark)));
        }
        unserved
    }

    /// The next answer; never ends while nothing is being read.
    pub(crate) async fn next(&mut self) -> Answer {
        match self.running.next().await {
            Some(answer) => {
                if self.open.remove(&answer.key) == Some(Open::ReadingAndWanted) {
                    self.want(&answer.key);
                }
                answer
            }
            None => std::future::pending().await,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }
}

/// One object, or every grant of a namespace.
fn read_path(versions: &Versions, key: &ObjectKey) -> Option<String> {
    if is_all_grants(key) {
        let version = versions.get(&Kind::ReferenceGrant)?;
        return Some(collection(Kind::ReferenceGrant, version).path(&key.namespace, ""));
    }
    path(versions, key)
}

fn is_all_grants(key: &ObjectKey) -> bool {
    key.kind == Kind::ReferenceGrant && key.name.is_empty()
}

async fn read(caller: Caller, key: ObjectKey, path: String, mark: Mark) -> Answer {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CAP);
    let started = Instant::now();
    loop {
        let found: Result<Vec<Value>, CallError> = if is_all_grants(&key) {
            caller.list(&path, false).await.map(|(_, objects)| objects)
        } else {
            caller.get(&path).await.map(|object| vec![object])
        };
        match found {
            Ok(mut objects) => {
                objects.iter_mut().for_each(|object| trim(key.kind, object));
                return Answer { key, mark, found: Found::Objects(objects) };
            }
            Err(error) if error.is_not_found() => {
                return Answer { key, mark, found: Found::Objects(Vec::new()) };
            }
            Err(error) if error.is_final() || started.elapsed() >= REFERENCE_WAIT => {
                // A missing right is told as that, once.
                if !error.is_denied() {
                    tracing::warn!(object = %key, %error, "a reference cannot be read");
                }
                return Answer { key, mark, found: Found::Nothing };
            }
            Err(_) => tokio::time::sleep(backoff.next_wait()).await,
        }
    }
}
