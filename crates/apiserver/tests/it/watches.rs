//! Lists and watches as clients rely on them.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use weir_apiserver::{ApiServer, ApiServerConfig};

const DEADLINE: Duration = Duration::from_secs(20);

fn server(history_changes: usize) -> (ApiServer, Api<ConfigMap>) {
    let config = ApiServerConfig { history_changes, ..ApiServerConfig::default() };
    let server = ApiServer::new(config).expect("a server");
    let maps = Api::namespaced(server.client(), "default");
    (server, maps)
}

fn map(name: &str, value: u32) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"parity": if value.is_multiple_of(2) { "even" } else { "odd" }}}, "data": {"v": value.to_string()}}))
        .expect("a ConfigMap")
}

/// A small generator of numbers, the same for the same seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

type State = BTreeMap<String, String>;

async fn listed(maps: &Api<ConfigMap>, labels: &str) -> State {
    let list = maps.list(&ListParams::default().labels(labels)).await.expect("a list");
    list.items.iter().map(|item| (item.name_any(), item.resource_version().expect("a version"))).collect()
}

/// Follows a list and its watch until `end` (an object of that name) comes; gives the state that the events make.
async fn followed(maps: Api<ConfigMap>, labels: &'static str, end: &str) -> State {
    let list = maps.list(&ListParams::default().labels(labels)).await.expect("a list");
    let mut state: State = list
        .items
        .iter()
        .map(|item| (item.name_any(), item.resource_version().expect("a version")))
        .collect();
    let mut version = list.metadata.resource_version.expect("a version");
    let mut newest: u64 = version.parse().expect("a number");
    loop {
        let mut events = std::pin::pin!(
            maps.watch(&WatchParams::default().labels(labels), &version).await.expect("a watch")
        );
        while let Some(event) = events.try_next().await.expect("an event") {
            let (item, there) = match event {
                WatchEvent::Added(item) => {
                    assert!(!state.contains_key(&item.name_any()), "added twice");
                    (item, true)
                }
                WatchEvent::Modified(item) => {
                    assert!(state.contains_key(&item.name_any()), "modified before it was added");
                    (item, true)
                }
                WatchEvent::Deleted(item) => (item, false),
                WatchEvent::Bookmark(_) => continue,
                WatchEvent::Error(status) => panic!("{status:?}"),
            };
            version = item.resource_version().expect("a version");
            let number: u64 = version.parse().expect("a number");
            assert!(number > newest, "events are in order");
            newest = number;
            if there {
                state.insert(item.name_any(), version.clone());
            } else {
                assert!(state.remove(&item.name_any()).is_some(), "deleted what was not there");
            }
            if item.name_any() == end {
                return state;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_and_its_watch_make_the_state_whatever_is_written() {
    for seed in 0..8 {
        let (_server, maps) = server(4_096);
        let mut numbers = Numbers(seed);
        for n in 0..5 {
            maps.create(&PostParams::default(), &map(&format!("m{n}"), n)).await.expect("created");
        }
        let followers: Vec<_> = ["", "parity=odd", "parity notin (odd)"]
            .into_iter()
            .map(|labels| (labels, tokio::spawn(followed(maps.clone(), labels, "end"))))
            .collect();
        for step in 0..200 {
            let name = format!("m{}", numbers.below(8));
            let value = u32::try_from(numbers.below(1_000)).expect("small");
            match numbers.below(4) {
                0 => drop(maps.delete(&name, &DeleteParams::default()).await),
                1 => drop(maps.create(&PostParams::default(), &map(&name, value)).await),
                _ => {
                    let patch = json!({"metadata": {"labels": {"parity": if value.is_multiple_of(2) { "even" } else { "odd" }}}, "data": {"v": value.to_string()}});
                    drop(maps.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await);
                }
            }
            if step % 50 == 0 {
                tokio::task::yield_now().await;
            }
        }
        // Seen by every selector of this test, one after the other.
        let mut end = map("end", 1);
        maps.create(&PostParams::default(), &end).await.expect("created");
        end.labels_mut().insert("parity".to_owned(), "even".to_owned());
        let odd = listed(&maps, "parity=odd").await;
        maps.replace("end", &PostParams::default(), &end).await.expect("replaced");
        for (labels, follower) in followers {
            let state = tokio::time::timeout(DEADLINE, follower).await.expect("in time").expect("no panic");
            let mut wanted = if labels == "parity=odd" { odd.clone() } else { listed(&maps, labels).await };
            let mut seen = state;
            // The marker itself is at another version for each selector.
            wanted.remove("end");
            seen.remove("end");
            assert_eq!(seen, wanted, "seed {seed}, {labels:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_no_longer_kept_is_gone() {
    let (_server, maps) = server(16);
    let first = maps.create(&PostParams::default(), &map("a", 0)).await.expect("created");
    let version = first.resource_version().expect("a version");
    let page = maps.list(&ListParams::default().limit(1)).await.expect("a list");
    maps.create(&PostParams::default(), &map("b", 0)).await.expect("created");
    let page_of_two = maps.list(&ListParams::default().limit(1)).await.expect("a list");
    let token = page_of_two.metadata.continue_.expect("there is more");
    assert_eq!(page.metadata.continue_.unwrap_or_default(), "", "there was no more");
    for value in 1..40 {
        let patch = json!({"data": {"v": value.to_string()}});
        maps.patch("a", &PatchParams::default(), &Patch::Merge(patch)).await.expect("patched");
    }
    match maps.watch(&WatchParams::default(), &version).await.err() {
        Some(kube::Error::Api(status)) => {
            assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
            assert!(status.message.starts_with("too old resource version"), "{}", status.message);
        }
        other => panic!("{other:?}"),
    }
    match maps.list(&ListParams::default().limit(1).continue_token(&token)).await.err() {
        Some(kube::Error::Api(status)) => assert_eq!((status.code, status.reason.as_str()), (410, "Expired")),
        other => panic!("{other:?}"),
    }
    let newest = maps.get("a").await.expect("there").resource_version().expect("a version");
    drop(maps.watch(&WatchParams::default(), &newest).await.expect("the newest can be watched from"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_does_not_read_is_turned_away_and_costs_nothing() {
    let (_server, maps) = server(64);
    maps.create(&PostParams::default(), &map("a", 0)).await.expect("created");
    let version = maps
        .list(&ListParams::default())
        .await
        .expect("a list")
        .metadata
        .resource_version
        .expect("a version");
    let mut slow = std::pin::pin!(maps.watch(&WatchParams::default(), &version).await.expect("a watch"));
    // More changes than are kept; the stream takes some ahead, and then nobody asks it for more.
    for value in 1..2_000 {
        let patch = json!({"data": {"v": value.to_string()}});
        maps.patch("a", &PatchParams::default(), &Patch::Merge(patch)).await.expect("patched");
    }
    let read = async {
        loop {
            match slow.try_next().await.expect("an event") {
                Some(WatchEvent::Error(status)) => return status.code,
                Some(_) => {}
                None => panic!("it ended without a word"),
            }
        }
    };
    assert_eq!(tokio::time::timeout(DEADLINE, read).await.expect("in time"), 410);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_of_a_list_are_of_one_version() {
    let (_server, maps) = server(4_096);
    for n in 0..10 {
        maps.create(&PostParams::default(), &map(&format!("m{n}"), n)).await.expect("created");
    }
    let first = maps.list(&ListParams::default().limit(4)).await.expect("a list");
    assert_eq!(first.metadata.remaining_item_count, Some(6));
    maps.delete("m9", &DeleteParams::default()).await.expect("deleted");
    maps.create(&PostParams::default(), &map("m5a", 0)).await.expect("created");
    let mut names: Vec<String> = first.items.iter().map(ResourceExt::name_any).collect();
    let mut token = first.metadata.continue_.clone();
    while let Some(next) = token.filter(|token| !token.is_empty()) {
        let page = maps.list(&ListParams::default().limit(4).continue_token(&next)).await.expect("a list");
        assert_eq!(page.metadata.resource_version, first.metadata.resource_version);
        names.extend(page.items.iter().map(ResourceExt::name_any));
        token = page.metadata.continue_;
    }
    assert_eq!(names, (0..10).map(|n| format!("m{n}")).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_leaves_a_selector_is_deleted_for_it() {
    let (_server, maps) = server(4_096);
    maps.create(&PostParams::default(), &map("a", 1)).await.expect("created");
    let version = maps
        .list(&ListParams::default())
        .await
        .expect("a list")
        .metadata
        .resource_version
        .expect("a version");
    let mut events = std::pin::pin!(
        maps.watch(&WatchParams::default().labels("parity=odd"), &version).await.expect("a watch")
    );
    for value in [2_u32, 4, 3] {
        let labels = json!({"metadata": {"labels": {"parity": if value.is_multiple_of(2) { "even" } else { "odd" }}}, "data": {"v": value.to_string()}});
        maps.patch("a", &PatchParams::default(), &Patch::Merge(labels)).await.expect("patched");
    }
    let mut next = async || {
        tokio::time::timeout(DEADLINE, events.try_next())
            .await
            .expect("in time")
            .expect("an event")
            .expect("no end")
    };
    match next().await {
        WatchEvent::Deleted(item) => assert_eq!(item.labels()["parity"], "odd", "as it was last seen"),
        other => panic!("{other:?}"),
    }
    match next().await {
        WatchEvent::Added(item) => assert_eq!(item.labels()["parity"], "odd"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kubes_watchers_start_by_lists_and_by_streams() {
    let (server, maps) = server(4_096);
    maps.create(&PostParams::default(), &map("a", 1)).await.expect("created");
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let maps: Api<ConfigMap> = Api::all(server.client());
        let mut events = std::pin::pin!(watcher::watcher(maps, config));
        let mut seen = Vec::new();
        let run = async {
            while let Some(event) = events.next().await {
                match event.expect("an event") {
                    watcher::Event::Init => seen.clear(),
                    watcher::Event::InitApply(item) => seen.push(item.name_any()),
                    watcher::Event::InitDone => break,
                    other => panic!("{other:?}"),
                }
            }
        };
        tokio::time::timeout(DEADLINE, run).await.expect("in time");
        assert_eq!(seen, ["a"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_changes_nothing_takes_no_version() {
    let (server, maps) = server(4_096);
    let before = maps.create(&PostParams::default(), &map("a", 1)).await.expect("created");
    let after = maps.replace("a", &PostParams::default(), &before).await.expect("replaced");
    assert_eq!(before.resource_version(), after.resource_version());
    let patch = json!({"data": {"v": "1"}});
    let after = maps.patch("a", &PatchParams::default(), &Patch::Merge(patch)).await.expect("patched");
    assert_eq!(before.resource_version(), after.resource_version());
    let apply = Patch::Apply(
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}, "data": {"x": "y"}}),
    );
    let first = maps.patch("b", &PatchParams::apply("t"), &apply).await.expect("applied");
    let second = maps.patch("b", &PatchParams::apply("t"), &apply).await.expect("applied");
    assert_eq!(first.resource_version(), second.resource_version());
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_of_a_known_version_exclude_one_another_and_others_do_not() {
    let (server, maps) = server(4_096);
    maps.create(&PostParams::default(), &map("a", 0)).await.expect("created");
    // Ten writers each add one to a counter twenty times, by reading and replacing; none of the additions is lost.
    let writers: Vec<_> = (0..10)
        .map(|_| {
            let client: Client = server.client();
            tokio::spawn(async move {
                let maps: Api<ConfigMap> = Api::namespaced(client, "default");
                let mut done = 0;
                while done < 20 {
                    let mut item = maps.get("a").await.expect("there");
                    let data = item.data.get_or_insert_default();
                    let value: u32 = data["v"].parse().expect("a number");
                    data.insert("v".to_owned(), (value + 1).to_string());
                    match maps.replace("a", &PostParams::default(), &item).await {
                        Ok(_) => done += 1,
                        Err(kube::Error::Api(status)) if status.code == 409 => tokio::task::yield_now().await,
                        Err(other) => panic!("{other}"),
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        tokio::time::timeout(DEADLINE, writer).await.expect("in time").expect("no panic");
    }
    assert_eq!(maps.get("a").await.expect("there").data.expect("data")["v"], "200");
}
