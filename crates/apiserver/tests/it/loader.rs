//! Objects from files: reading, following, places of complaints.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use weir_apiserver::loader::{self, Changes, Loaded, Loader, Watch};
use weir_apiserver::{ApiServer, ApiServerConfig, Identity};

use crate::sandbox::DEADLINE;

fn config_map(name: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\ndata:\n  key: \"{value}\"\n")
}

/// Each ConfigMap's value by name.
fn values(loaded: &Loaded) -> BTreeMap<String, String> {
    let entry = |value: &serde_json::Value| {
        let text = |pointer| value.pointer(pointer).and_then(serde_json::Value::as_str).map(str::to_owned);
        Some((text("/metadata/name")?, text("/data/key")?))
    };
    loaded.objects.iter().filter_map(|object| entry(&object.value)).collect()
}

fn expected(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// A directory that is followed.
struct Followed {
    directory: TempDir,
    loader: Loader,
    watch: Watch,
}

impl Followed {
    fn start(files: &[(&str, &str)]) -> (Self, Loaded) {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            fs::write(directory.path().join(name), text).expect("written");
        }
        let watch = Watch::start(directory.path()).expect("followed");
        let mut loader = Loader::new(directory.path());
        let loaded = loader.read().expect("readable");
        (Self { directory, loader, watch }, loaded)
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    async fn changes(&mut self) -> Changes {
        let next = self.watch.next_until(self.loader.settles_at());
        tokio::time::timeout(DEADLINE, next).await.expect("a change is told")
    }

    /// Reads changes until they say what is expected; every state in between is looked at by `check`.
    async fn until(&mut self, wanted: &BTreeMap<String, String>, check: impl Fn(&Loaded)) -> Loaded {
        loop {
            let changes = self.changes().await;
            let loaded = self.loader.read_changes(&changes);
            check(&loaded);
            if values(&loaded) == *wanted {
                return loaded;
            }
        }
    }
}

#[tokio::test]
async fn a_file_that_is_written_is_never_seen_half_written() {
    let (mut followed, loaded) = Followed::start(&[("a.yaml", &config_map("a", "1"))]);
    assert_eq!(values(&loaded), expected(&[("a", "1")]));
    // Truncated and written in steps, as editors that write in place do.
    let path = followed.path().join("a.yaml");
    let other = followed.path().join("b.yaml");
    let writer = std::thread::spawn(move || {
        use std::io::Write;
        let mut file = fs::File::create(path).expect("opened");
        for line in config_map("a", "2").lines() {
            writeln!(file, "{line}").expect("written");
            file.flush().expect("flushed");
            // Another file comes meanwhile, and makes the directory due.
            fs::write(&other, config_map("b", "1")).expect("written");
        }
    });
    let wanted = expected(&[("a", "2"), ("b", "1")]);
    followed.until(&wanted, |loaded| assert!(values(loaded).contains_key("a"), "{loaded:?}")).await;
    writer.join().expect("writes");
}

#[tokio::test]
async fn a_rename_over_a_file_is_told_at_once_and_editors_files_are_not_read() {
    let (mut followed, _) = Followed::start(&[("a.yaml", &config_map("a", "1"))]);
    let path = followed.path().to_owned();
    fs::write(path.join(".a.yaml.swp"), "not: [yaml").expect("written");
    fs::write(path.join(".#a.yaml"), "not: [yaml").expect("written");
    fs::write(path.join("a.yaml~"), "not: [yaml").expect("written");
    fs::write(path.join(".new"), config_map("a", "2")).expect("written");
    let begun = std::time::Instant::now();
    fs::rename(path.join(".new"), path.join("a.yaml")).expect("renamed");
    let loaded = followed.until(&expected(&[("a", "2")]), |loaded| assert!(loaded.errors.is_empty())).await;
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    assert_eq!(loaded.objects.len(), 1);
    fs::remove_file(path.join("a.yaml")).expect("removed");
    followed.until(&expected(&[]), |_| {}).await;
}

#[tokio::test]
async fn a_mounted_config_map_changes_as_one() {
    let (mut followed, _) = Followed::start(&[]);
    let path = followed.path().to_owned();
    let generation = |name: &str, value: &str| {
        fs::create_dir(path.join(name)).expect("made");
        for file in ["a", "b"] {
            fs::write(path.join(name).join(format!("{file}.yaml")), config_map(file, value))
                .expect("written");
        }
        symlink(name, path.join("..data_tmp")).expect("linked");
        fs::rename(path.join("..data_tmp"), path.join("..data")).expect("renamed");
    };
    generation("..2026_1", "1");
    for file in ["a.yaml", "b.yaml"] {
        symlink(format!("..data/{file}"), path.join(file)).expect("linked");
    }
    followed.until(&expected(&[("a", "1"), ("b", "1")]), |loaded| assert!(loaded.errors.is_empty())).await;
    generation("..2026_2", "2");
    fs::remove_dir_all(path.join("..2026_1")).expect("removed");
    let wanted = expected(&[("a", "2"), ("b", "2")]);
    followed.until(&wanted, |loaded| assert!(loaded.errors.is_empty(), "{:?}", loaded.errors)).await;
}

#[tokio::test]
async fn a_broken_file_keeps_its_last_good_objects_and_the_rest_goes_on() {
    let (mut followed, _) =
        Followed::start(&[("a.yaml", &config_map("a", "1")), ("b.yaml", &config_map("b", "1"))]);
    let path = followed.path().to_owned();
    fs::write(path.join("a.yaml"), "apiVersion: v1\nkind: [\n").expect("written");
    fs::write(path.join("b.yaml"), config_map("b", "2")).expect("written");
    let mut loaded = followed.until(&expected(&[("a", "1"), ("b", "2")]), |_| {}).await;
    while loaded.errors.is_empty() {
        let changes = followed.changes().await;
        loaded = followed.loader.read_changes(&changes);
    }
    let error = loaded.errors[0].to_string();
    assert!(error.starts_with(&format!("{}:", path.join("a.yaml").display())), "{error}");
    assert!(loaded.errors[0].line >= 2, "{error}");
    fs::write(path.join("a.yaml"), config_map("a", "3")).expect("written");
    let mended = followed.until(&expected(&[("a", "3"), ("b", "2")]), |_| {}).await;
    assert!(mended.errors.is_empty());
}

#[tokio::test]
async fn directories_inside_are_read_and_a_replaced_root_is_followed() {
    let (mut followed, _) = Followed::start(&[("a.yaml", &config_map("a", "1"))]);
    let path = followed.path().to_owned();
    fs::create_dir_all(path.join("deep/deeper")).expect("made");
    fs::write(path.join("deep/deeper/b.yml"), config_map("b", "1")).expect("written");
    followed.until(&expected(&[("a", "1"), ("b", "1")]), |_| {}).await;
    fs::write(path.join("deep/deeper/b.yml"), config_map("b", "2")).expect("written");
    followed.until(&expected(&[("a", "1"), ("b", "2")]), |_| {}).await;
    // The whole directory is replaced, as a deployment tool does.
    let (new, old) = (path.with_extension("new"), path.with_extension("old"));
    fs::create_dir(&new).expect("made");
    fs::write(new.join("c.yaml"), config_map("c", "1")).expect("written");
    fs::rename(&path, &old).expect("renamed");
    fs::rename(&new, &path).expect("renamed");
    followed.until(&expected(&[("c", "1")]), |loaded| assert!(!loaded.objects.is_empty())).await;
    fs::write(path.join("c.yaml"), config_map("c", "2")).expect("written");
    followed.until(&expected(&[("c", "2")]), |_| {}).await;
    fs::remove_dir_all(&old).expect("removed");
}

#[tokio::test]
async fn a_file_that_is_away_for_a_moment_keeps_its_objects() {
    let (mut followed, _) =
        Followed::start(&[("a.yaml", &config_map("a", "1")), ("b.yaml", &config_map("b", "1"))]);
    let path = followed.path().to_owned();
    // As editors save: the old file out of the way, a new one in its place.
    fs::rename(path.join("a.yaml"), path.join("a.yaml~")).expect("renamed");
    let changes = followed.changes().await;
    let loaded = followed.loader.read_changes(&changes);
    assert_eq!(values(&loaded), expected(&[("a", "1"), ("b", "1")]));
    assert!(followed.loader.settles_at().is_some());
    fs::write(path.join("a.yaml"), config_map("a", "2")).expect("written");
    let all = expected(&[("a", "2"), ("b", "1")]);
    followed.until(&all, |loaded| assert_eq!((loaded.objects.len(), loaded.errors.len()), (2, 0))).await;
    assert_eq!(followed.loader.settles_at(), None);
    // Under another name its objects are that file's at once.
    fs::write(path.join(".c"), config_map("b", "2")).expect("written");
    fs::remove_file(path.join("b.yaml")).expect("removed");
    fs::rename(path.join(".c"), path.join("c.yaml")).expect("renamed");
    let all = expected(&[("a", "2"), ("b", "2")]);
    followed.until(&all, |loaded| assert_eq!((loaded.objects.len(), loaded.errors.len()), (2, 0))).await;
    let removed = tokio::time::Instant::now();
    fs::remove_file(path.join("c.yaml")).expect("removed");
    followed.until(&expected(&[("a", "2")]), |_| {}).await;
    assert!(removed.elapsed() >= loader::REMOVAL_SETTLE);
}

#[tokio::test]
async fn a_relative_name_is_followed_and_told_as_it_was_given() {
    let directory = tempfile::tempdir().expect("a directory");
    let here = std::env::current_dir().expect("a directory");
    let up = here.components().filter(|part| matches!(part, std::path::Component::Normal(_))).map(|_| "..");
    let relative: std::path::PathBuf = up.collect();
    let relative = relative.join(directory.path().strip_prefix("/").expect("absolute"));
    let mut watch = Watch::start(&relative).expect("followed");
    let mut loader = Loader::new(&relative);
    assert!(loader.read().expect("readable").objects.is_empty());
    fs::write(directory.path().join("a.yaml"), config_map("a", "1")).expect("written");
    let loaded = loop {
        let changes = tokio::time::timeout(DEADLINE, watch.next()).await.expect("a change is told");
        let loaded = loader.read_changes(&changes);
        if !loaded.objects.is_empty() {
            break loaded;
        }
    };
    assert_eq!(*loaded.objects[0].source.file, relative.join("a.yaml"));
}

#[test]
fn an_object_that_is_there_twice_is_named_with_both_places() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    fs::write(path.join("a.yaml"), config_map("x", "first")).expect("written");
    let text = format!("# a comment\n---\n{}---\n{}", config_map("z", "1"), config_map("x", "second"));
    fs::write(path.join("b.yaml"), text).expect("written");
    let loaded = Loader::new(path).read().expect("readable");
    assert_eq!(values(&loaded), expected(&[("x", "first"), ("z", "1")]), "{:?}", loaded.errors);
    assert_eq!(loaded.errors.len(), 1);
    let (error, first) = (&loaded.errors[0], format!("{}:1", path.join("a.yaml").display()));
    assert_eq!((error.line, error.object.as_str()), (13, "ConfigMap x"));
    assert!(error.reason.contains(&first), "{error}");
}

#[test]
fn a_directory_that_is_not_there_is_an_error_and_a_single_file_is_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let missing = directory.path().join("missing");
    assert_eq!(Loader::new(&missing).read().expect_err("missing").kind(), std::io::ErrorKind::NotFound);
    let file = directory.path().join("one.yaml");
    fs::write(&file, config_map("a", "1")).expect("written");
    assert_eq!(values(&Loader::new(&file).read().expect("readable")), expected(&[("a", "1")]));
}

fn server() -> ApiServer {
    let config = ApiServerConfig { identity: Identity::Stable, ..ApiServerConfig::default() };
    ApiServer::new(config).expect("a server")
}

#[tokio::test]
async fn what_the_server_refuses_is_told_by_file_line_and_field() {
    let directory = tempfile::tempdir().expect("a directory");
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: split\nspec:\n  rules:\n  \
                 - backendRefs:\n    - name: one\n      port: 80\n    - name: two\n      port: 80\n      wieght: 3\n";
    let text = format!("{}---\n{route}", config_map("a", "1"));
    let path = directory.path().join("x.yaml");
    fs::write(&path, &text).expect("written");
    let (server, mut loader) = (server(), Loader::new(directory.path()));
    let errors = loader.read().expect("readable").apply(&server);
    assert_eq!(errors.len(), 1, "{errors:?}");
    let wanted = format!(
        "{}:{}: HTTPRoute default/split: spec.rules[0].backendRefs[1].wieght: ",
        path.display(),
        6 + 1 + 12
    );
    assert!(errors[0].to_string().starts_with(&wanted), "{} is not {wanted}", errors[0]);
    let maps: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    assert!(maps.get("a").await.is_ok(), "the rest of the file is there");
    fs::write(&path, text.replace("wieght: 3", "weight: -1")).expect("written");
    let errors = loader.read().expect("readable").apply(&server);
    assert_eq!((errors.len(), errors[0].line), (1, 19), "{errors:?}");
    fs::write(&path, text.replace("wieght: 3", "weight: 3")).expect("written");
    assert!(loader.read().expect("readable").apply(&server).is_empty());
}

#[tokio::test]
async fn a_followed_directory_is_what_the_server_has() {
    let (followed, loaded) = Followed::start(&[("a.yaml", &config_map("a", "1"))]);
    let server = server();
    assert!(loaded.apply(&server).is_empty());
    let maps: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let shutdown = CancellationToken::new();
    let (told, mut reports) = tokio::sync::mpsc::unbounded_channel();
    let Followed { directory, loader, watch } = followed;
    let report = move |errors: &[loader::LoadError]| told.send(errors.len()).expect("heard");
    let following = loader::follow(loader, watch, server.clone(), Vec::new(), report, shutdown.clone());
    let following = tokio::spawn(following);
    fs::write(directory.path().join("b.yaml"), config_map("b", "1")).expect("written");
    fs::remove_file(directory.path().join("a.yaml")).expect("removed");
    crate::sandbox::until(&maps, "one came and one went", |all: &[ConfigMap]| {
        let names: Vec<_> = all.iter().map(ResourceExt::name_any).filter(|name| name.len() == 1).collect();
        (names == ["b"]).then_some(())
    })
    .await;
    fs::write(directory.path().join("b.yaml"), "kind: [").expect("written");
    assert_eq!(tokio::time::timeout(DEADLINE, reports.recv()).await.expect("told"), Some(1));
    assert!(maps.get("b").await.is_ok(), "the last good object stays");
    fs::remove_file(directory.path().join("b.yaml")).expect("removed");
    assert_eq!(tokio::time::timeout(DEADLINE, reports.recv()).await.expect("told"), Some(0));
    shutdown.cancel();
    following.await.expect("ends");
}
