//! Changes of a directory, as they happen.
//!
//! Invariants: a change is told at once; a file that is being written is told when it is closed, not half-written;
//! a directory that is replaced by another of the same name is followed on.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Until a new directory is surely followed. Source: measured well under 1 ms; this is only for a loaded machine.
const NEW_DIRECTORY: Duration = Duration::from_millis(100);

/// What changed since the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Files that are complete and may be new or different.
    pub(super) files: BTreeSet<PathBuf>,
    /// Files of which only metadata changed, such as the right to read them.
    pub(super) touched: BTreeSet<PathBuf>,
    /// Directories or links changed, or events were lost: look at everything.
    pub(super) all: bool,
}

impl Changes {
    fn is_empty(&self) -> bool {
        self.files.is_empty() && self.touched.is_empty() && !self.all
    }
}

/// Follows a directory, or a single file.
pub struct Watch {
    root: Root,
    watcher: RecommendedWatcher,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    changes: Changes,
    /// The root itself went or came.
    root_changed: bool,
    /// A new directory is followed only some time after it is told; what came into it before that is found then.
    look_again: Option<Instant>,
}

impl Watch {
    /// Starts to follow; what changes from now on is told.
    pub fn start(root: &Path) -> Result<Self, notify::Error> {
        let shared = Arc::new(Shared::default());
        let root = Root::new(root)?;
        let (told, of_root) = (shared.clone(), root.clone());
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            told.take(&of_root, event);
        })?;
        let mut watch = Self { root, watcher, shared };
        watch.follow_root()?;
        Ok(watch)
    }

    /// [`Watch::next`], or nothing at this time.
    pub async fn next_until(&mut self, at: Option<Instant>) -> Changes {
        match at {
            None => self.next().await,
            Some(at) => tokio::time::timeout_at(at, self.next()).await.unwrap_or_default(),
        }
    }

    /// Waits for changes and takes them all.
    pub async fn next(&mut self) -> Changes {
        loop {
            let (changes, root_changed, look_again) = {
                let mut state = self.shared.state.lock();
                if state.look_again.is_some_and(|at| at <= Instant::now()) {
                    state.look_again = None;
                    state.changes.all = true;
                }
                (
                    std::mem::take(&mut state.changes),
                    std::mem::take(&mut state.root_changed),
                    state.look_again,
                )
            };
            if root_changed {
                // While it is away there is nothing to follow; its parent tells when it comes back.
                if let Err(error) = self.follow_root() {
                    tracing::debug!(error = %error, "the directory cannot be followed now");
                }
                return Changes { all: true, ..changes };
            }
            if !changes.is_empty() {
                return changes;
            }
            let changed = self.shared.changed.notified();
            match look_again {
                None => changed.await,
                // Either way the state says what is to be done.
                Some(at) => drop(tokio::time::timeout_at(at, changed).await),
            }
        }
    }

    fn follow_root(&mut self) -> Result<(), notify::Error> {
        if let Some(parent) = self.root.absolute.parent() {
            self.watcher.watch(parent, RecursiveMode::NonRecursive)?;
        }
        if self.root.absolute.is_dir() {
            // A watch on the directory that was there before is of no use.
            let _ = self.watcher.unwatch(&self.root.absolute);
            self.watcher.watch(&self.root.absolute, RecursiveMode::Recursive)?;
        }
        Ok(())
    }
}

/// What is followed: as the user named it, by which its files are told, and as events name it.
#[derive(Clone)]
struct Root {
    named: PathBuf,
    absolute: PathBuf,
}

impl Root {
    fn new(named: &Path) -> Result<Self, notify::Error> {
        let absolute = std::path::absolute(named).map_err(notify::Error::io)?;
        Ok(Self { named: named.to_path_buf(), absolute })
    }

    /// The path in the user's words; None for what is outside.
    fn in_words(&self, path: &Path) -> Option<PathBuf> {
        let inside = path.strip_prefix(&self.absolute).ok()?;
        Some(if inside.as_os_str().is_empty() { self.named.clone() } else { self.named.join(inside) })
    }
}

impl Shared {
    fn take(&self, root: &Root, event: notify::Result<notify::Event>) {
        let mut state = self.state.lock();
        match event {
            Ok(event) if event.need_rescan() => state.changes.all = true,
            Ok(event) => {
                for path in event.paths.iter().filter_map(|path| root.in_words(path)) {
                    state.take(root, event.kind, &path);
                }
            }
            Err(error) => {
                tracing::warn!(error = %error, "watching the directory failed; everything is looked at again");
                state.changes.all = true;
            }
        }
        if state.root_changed || !state.changes.is_empty() {
            self.changed.notify_one();
        }
    }
}

impl State {
    fn take(&mut self, root: &Root, kind: EventKind, path: &Path) {
        if path == root.named && !is_manifest(path) {
            let moved = matches!(
                kind,
                EventKind::Create(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
            );
            self.root_changed |= moved;
            return;
        }
        match kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) if is_manifest(path) => {
                self.changes.files.insert(path.to_path_buf());
            }
            EventKind::Access(_) | EventKind::Modify(ModifyKind::Data(_)) => {}
            EventKind::Create(CreateKind::File) if is_being_written(path) => {}
            EventKind::Modify(ModifyKind::Metadata(_)) => {
                if is_manifest(path) {
                    self.changes.touched.insert(path.to_path_buf());
                }
            }
            _ if is_manifest(path) => {
                self.changes.files.insert(path.to_path_buf());
            }
            EventKind::Create(CreateKind::Folder) => {
                self.changes.all = true;
                self.look_again = Some(Instant::now() + NEW_DIRECTORY);
            }
            // Links to directories are how a mounted ConfigMap changes; hidden or not, files may lie behind them.
            EventKind::Create(CreateKind::File) => {}
            _ => self.changes.all = true,
        }
    }
}

/// A new regular file says when it is closed; a link to one says nothing more.
fn is_being_written(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.nlink() == 1)
}

/// Whether a file is one that is read: its name ends so, and does not begin with a dot as editors' own files do.
pub(super) fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(is_hidden);
    let extension = path.extension().and_then(OsStr::to_str);
    !hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}

pub(super) fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().first() == Some(&b'.')
}
