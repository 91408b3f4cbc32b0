//! Objects from files.
//!
//! Owns: reading a directory (or one file) of YAML and JSON, following its changes, and giving its objects to the
//! server; every complaint is told with file, line, object and field.
//!
//! Invariants: a file counts as a whole, and while it is broken its last good objects stay; files are read in the
//! order of their paths, so the same directory always means the same; nothing waits before a change is read, but a file
//! that is away keeps its objects for [`REMOVAL_SETTLE`]: many programs save by moving the old file out of the way, and
//! objects that go for a moment take with them what was made for them. Another file may take them over at once.
//!
//! Deliberately absent: templates, variables, includes.

mod position;
mod read;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use position::Positions;
use read::{Identity, objects};
pub use read::{LoadError, LoadedObject, Source};
pub use watch::{Changes, Watch};
use watch::{is_hidden, is_manifest};

use crate::ApiServer;

/// Largest file that is read. Unit: bytes. Source: ours; 40,000 routes fit.
const LARGEST_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// How long a file may be away before its objects go. Source: ours; editors and copies take some milliseconds.
pub const REMOVAL_SETTLE: Duration = Duration::from_millis(300);
/// Directories inside one another that are read. Source: ours; links may make a circle.
const DEEPEST: usize = 32;

/// What a directory says.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// In the order of files and documents.
    pub objects: Vec<Arc<LoadedObject>>,
    /// In the same order.
    pub errors: Vec<LoadError>,
}

impl Loaded {
    /// Makes the server's objects equal to these. Returns what the server refuses, with its places.
    pub fn apply(&self, server: &ApiServer) -> Vec<LoadError> {
        let values: Vec<Arc<Value>> = self.objects.iter().map(|object| object.value.clone()).collect();
        let rejections = server.replace(values);
        let errors = rejections.into_iter().filter_map(|rejection| {
            let object = self.objects.get(rejection.index)?;
            Some(LoadError { object: rejection.object, ..object.error(&rejection.field, rejection.reason) })
        });
        errors.collect()
    }
}

/// Reads a directory again and again; remembers each file's last good objects.
pub struct Loader {
    root: PathBuf,
    files: BTreeMap<PathBuf, File>,
}

/// A file as it was last read.
struct File {
    stamp: Option<Stamp>,
    good: Vec<Arc<LoadedObject>>,
    errors: Vec<LoadError>,
    /// It could not be read at all.
    unreadable: bool,
    /// Since when it is away.
    away_since: Option<Instant>,
}

/// By what a changed file is told from an unchanged one.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

impl Loader {
    /// A loader of a directory, or of a single file.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), files: BTreeMap::new() }
    }

    /// Reads everything. An error means that the directory itself cannot be read.
    pub fn read(&mut self) -> io::Result<Loaded> {
        let found = find(&self.root)?;
        self.files.retain(|path, _| found.contains(path));
        for path in found {
            self.read_file(path);
        }
        Ok(self.loaded())
    }

    /// Reads what changed. When the directory itself is away, what was there stays, and the error says so.
    pub fn read_changes(&mut self, changes: &Changes) -> Loaded {
        let found = match find(&self.root) {
            Ok(found) => found,
            Err(error) => {
                let mut loaded = self.loaded();
                loaded.errors.insert(0, whole_file(&self.root, format!("cannot be read: {error}")));
                return loaded;
            }
        };
        self.let_go(&found, Instant::now());
        for path in found {
            let due = match self.files.get(&path) {
                // A file that is new may still be written, unless something said that it is complete.
                None => changes.all || changes.files.contains(&path),
                Some(file) => {
                    changes.files.contains(&path)
                        || (file.unreadable && changes.touched.contains(&path))
                        || (changes.all && file.stamp != Stamp::of(&path))
                }
            };
            if due {
                self.read_file(path);
            }
        }
        self.loaded()
    }

    /// When the next file will have been away for long enough: read the changes then, though there may be none.
    pub fn settles_at(&self) -> Option<Instant> {
        self.files.values().filter_map(|file| file.away_since).min().map(|since| since + REMOVAL_SETTLE)
    }

    /// Notes which files are away, and drops those that have been for long enough.
    fn let_go(&mut self, found: &BTreeSet<PathBuf>, now: Instant) {
        self.files.retain(|path, file| {
            if found.contains(path) {
                file.away_since = None;
                return true;
            }
            let since = *file.away_since.get_or_insert(now);
            now < since + REMOVAL_SETTLE
        });
    }

    fn read_file(&mut self, path: PathBuf) {
        let stamp = Stamp::of(&path);
        let (outcome, unreadable) = match read_text(&path) {
            Ok(text) => (objects(&path, &text), false),
            Err(error) => (Err(vec![whole_file(&path, format!("cannot be read: {error}"))]), true),
        };
        let file = self.files.entry(path).or_insert_with(|| File {
            stamp: None,
            good: Vec::new(),
            errors: Vec::new(),
            unreadable: false,
            away_since: None,
        });
        file.stamp = stamp;
        file.unreadable = unreadable;
        match outcome {
            Ok(good) => {
                file.good = good.into_iter().map(Arc::new).collect();
                file.errors = Vec::new();
            }
            Err(errors) => file.errors = errors,
        }
    }

    /// All good objects; of those that are there twice the first.
    fn loaded(&self) -> Loaded {
        let mut loaded = Loaded::default();
        let mut first: HashMap<Identity, usize> = HashMap::new();
        let (there, away): (Vec<&File>, Vec<&File>) =
            self.files.values().partition(|file| file.away_since.is_none());
        for file in there.into_iter().chain(away) {
            loaded.errors.extend(file.errors.iter().filter(|_| file.away_since.is_none()).cloned());
            for object in &file.good {
                let identity = Identity::of(&object.value);
                match first.get(&identity) {
                    None => {
                        first.insert(identity, loaded.objects.len());
                        loaded.objects.push(object.clone());
                    }
                    // It has been taken over.
                    Some(_) if file.away_since.is_some() => {}
                    Some(index) => {
                        let other = &loaded.objects[*index].source;
                        let place = format!("{}:{}", other.file.display(), other.line);
                        let reason = format!("the same object is already at {place}, which counts");
                        let mut error = object.error("metadata.name", reason);
                        error.field = String::new();
                        loaded.errors.push(error);
                    }
                }
            }
        }
        loaded
    }
}

/// Keeps the server's objects equal to a directory until `shutdown`, after a first read that the caller made and
/// applied. `report` is called whenever what is wrong has changed, with all of it.
pub async fn follow(
    mut loader: Loader,
    mut watch: Watch,
    server: ApiServer,
    mut known: Vec<LoadError>,
    mut report: impl FnMut(&[LoadError]),
    shutdown: CancellationToken,
) {
    loop {
        let changes = tokio::select! {
            () = shutdown.cancelled() => return,
            changes = watch.next_until(loader.settles_at()) => changes,
        };
        let loaded = loader.read_changes(&changes);
        let mut errors = loaded.errors.clone();
        errors.extend(loaded.apply(&server));
        if errors != known {
            report(&errors);
            known = errors;
        }
    }
}

/// The files to read, by path.
fn find(root: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    if fs::metadata(root)?.is_dir() {
        search(root, DEEPEST, &mut found)?;
    } else {
        found.insert(root.to_path_buf());
    }
    Ok(found)
}

fn search(directory: &Path, deeper: usize, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.file_name().is_none_or(is_hidden) {
            continue;
        }
        // What vanishes meanwhile is not there.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() && deeper > 0 {
            match search(&path, deeper - 1, found) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                outcome => outcome?,
            }
        } else if metadata.is_file() && is_manifest(&path) {
            found.insert(path);
        }
    }
    Ok(())
}

fn read_text(path: &Path) -> io::Result<String> {
    let size = fs::metadata(path)?.size();
    if size > LARGEST_FILE_BYTES {
        let message = format!("it has {size} bytes, more than the {LARGEST_FILE_BYTES} that are read");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    fs::read_to_string(path)
}

fn whole_file(path: &Path, reason: String) -> LoadError {
    LoadError { file: path.to_path_buf(), line: 0, object: String::new(), field: String::new(), reason }
}
