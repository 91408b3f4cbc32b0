//! What outlives the process: the last state that ran, and the certificate with which controllers know this data plane.
//!
//! Invariants: a file is written beside its place and moved there when it is whole, and what could not be written whole is taken away
//! again; a disk that is full keeps nobody from starting; what is read is what was written (a checksum says so)
//! and was written for this data plane, or it is nothing; files hold private keys, so only their owner may read them.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use prost::Message;
use prost::bytes::Bytes;
use sha2::{Digest, Sha256};
use weir_model::resource::DataPlaneName;
use weir_model::wire::{Entry, Position};

/// What files begin with; another form would have another one.
const MAGIC: &[u8; 8] = b"weir-1\r\n";
const SUM: usize = 32;

const SNAPSHOT: &str = "snapshot";
const IDENTITY: &str = "identity";

/// The last state that ran.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct KeptState {
    #[prost(string, tag = "1")]
    pub(crate) data_plane: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) position: Option<Position>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) entries: Vec<Entry>,
    /// When it was written: seconds since the Unix epoch.
    #[prost(int64, tag = "4")]
    pub(crate) saved_seconds: i64,
}

/// A certificate with its key.
#[derive(Clone, PartialEq, Eq, Message)]
#[prost(skip_debug)]
pub(crate) struct KeptIdentity {
    #[prost(string, tag = "1")]
    pub(crate) data_plane: String,
    /// PKCS#8, DER.
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) key: Bytes,
    /// DER.
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) certificate: Bytes,
    /// Seconds since the Unix epoch.
    #[prost(int64, tag = "4")]
    pub(crate) not_after_seconds: i64,
    /// When the next one is to be asked for: seconds since the Unix epoch.
    #[prost(int64, tag = "5")]
    pub(crate) renew_seconds: i64,
}

impl std::fmt::Debug for KeptIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeptIdentity").field("data_plane", &self.data_plane).finish_non_exhaustive()
    }
}

/// The directory.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    directory: PathBuf,
    name: DataPlaneName,
    /// One at a time: a write that nobody waits for any more may still be under way.
    writing: Arc<Mutex<()>>,
}

impl Store {
    /// Makes the directory where it is not there, and tries whether it can be written to.
    pub(crate) fn open(directory: &Path, name: &DataPlaneName) -> Result<Store> {
        let store = Store { directory: directory.to_owned(), name: name.clone(), writing: Arc::default() };
        let what = || format!("--state-dir: {}", directory.display());
        DirBuilder::new().recursive(true).mode(0o700).create(directory).with_context(what)?;
        let trial = store.directory.join("trial");
        match private(&trial).and_then(|_| std::fs::remove_file(&trial)) {
            // What is there can be read, and a controller may have everything.
            Err(error) if is_full(&error) => {
                tracing::warn!(directory = %directory.display(), %error, "the state directory is full: nothing new is kept");
            }
            outcome => outcome.with_context(what)?,
        }
        Ok(store)
    }

    pub(crate) fn save_state(&self, state: &[u8]) -> io::Result<()> {
        self.write(SNAPSHOT, state)
    }

    /// `None` where there is none.
    pub(crate) fn state(&self) -> Result<Option<KeptState>> {
        let state: Option<KeptState> = self.read(SNAPSHOT)?;
        if let Some(state) = &state
            && state.data_plane != self.name.to_string()
        {
            bail!("{SNAPSHOT} is that of data plane {}", state.data_plane);
        }
        Ok(state)
    }

    pub(crate) fn save_identity(&self, identity: &KeptIdentity) -> io::Result<()> {
        self.write(IDENTITY, &identity.encode_to_vec())
    }

    pub(crate) fn identity(&self) -> Result<Option<KeptIdentity>> {
        let identity: Option<KeptIdentity> = self.read(IDENTITY)?;
        if let Some(identity) = &identity
            && identity.data_plane != self.name.to_string()
        {
            bail!("{IDENTITY} is that of data plane {}", identity.data_plane);
        }
        Ok(identity)
    }

    fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let (place, beside) = (self.directory.join(name), self.directory.join(format!("{name}.new")));
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = write_whole(&beside, content).and_then(|()| std::fs::rename(&beside, &place)) {
            // A part of it would take the room that the next try needs. What stands in its place is as it was.
            let _ = std::fs::remove_file(&beside);
            return Err(error);
        }
        File::open(&self.directory)?.sync_all()
    }

    fn read<M: Message + Default>(&self, name: &str) -> Result<Option<M>> {
        let path = self.directory.join(name);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let Some(rest) = bytes.strip_prefix(MAGIC).filter(|rest| rest.len() >= SUM) else {
            bail!("{} is not a file of this form", path.display());
        };
        let (sum, content) = rest.split_at(SUM);
        if *sum != *Sha256::digest(content) {
            bail!("{} is broken: its checksum is another one", path.display());
        }
        Ok(Some(M::decode(content).with_context(|| path.display().to_string())?))
    }
}

fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = private(path)?;
    file.write_all(MAGIC)?;
    file.write_all(&Sha256::digest(content))?;
    file.write_all(content)?;
    file.sync_all()
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A new, empty file that only its owner may read.
fn private(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn name() -> DataPlaneName {
        DataPlaneName::new("default", "weir-g")
    }

    fn kept() -> KeptState {
        KeptState { data_plane: name().to_string(), saved_seconds: 7, ..KeptState::default() }
    }

    #[test]
    fn what_is_kept_comes_back_and_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("new"), &name()).unwrap();
        assert!(store.state().unwrap().is_none());
        assert!(store.identity().unwrap().is_none());
        store.save_state(&kept().encode_to_vec()).unwrap();
        let identity = KeptIdentity { data_plane: name().to_string(), ..KeptIdentity::default() };
        store.save_identity(&identity).unwrap();
        assert_eq!(store.state().unwrap().unwrap(), kept());
        assert_eq!(store.identity().unwrap().unwrap(), identity);
        for file in std::fs::read_dir(directory.path().join("new")).unwrap() {
            let file = file.unwrap();
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.path());
        }
    }

    #[test]
    fn what_was_torn_or_is_anothers_is_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), &name()).unwrap();
        store.save_state(&kept().encode_to_vec()).unwrap();
        let path = directory.path().join(SNAPSHOT);
        let whole = std::fs::read(&path).unwrap();
        for cut in [0, 7, 8, 20, 40, whole.len() - 1] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert!(store.state().is_err(), "cut at {cut}");
        }
        let mut changed = whole.clone();
        *changed.last_mut().unwrap() ^= 1;
        std::fs::write(&path, changed).unwrap();
        assert!(store.state().unwrap_err().to_string().contains("checksum"));
        std::fs::write(&path, whole).unwrap();
        let other = Store::open(directory.path(), &DataPlaneName::new("default", "other")).unwrap();
        assert!(other.state().unwrap_err().to_string().contains("default/weir-g"));
    }
}
