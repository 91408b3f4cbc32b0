//! Objects that lost the label by which they are found.

use serde_json::{Value, json};
use weir_control::Leadership;

use super::{DEPLOYMENT, GATEWAY, Rig, SERVICE, condition};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_lost_our_label_gets_it_back_and_stays_what_it_is() {
    let rig = Rig::start().await;
    let _control = rig.control(Leadership::always(), true, &[]);
    rig.programmed("g", "192.0.2.10").await;
    let is_marked = |object: &Value| object["metadata"]["labels"]["weir.dev/instance"] == "default.test";
    for (kind, name) in [
        (SERVICE, "weir-g"),
        (DEPLOYMENT, "weir-g"),
        ("/v1/ServiceAccount", "weir-g"),
        ("policy/v1/PodDisruptionBudget", "weir-g"),
        ("networking.k8s.io/v1/NetworkPolicy", "weir-g"),
        ("/v1/ConfigMap", "test-weir-authority"),
    ] {
        let before = rig.until(kind, "default", name, is_marked).await;
        let without = json!({"metadata": {"labels": {"weir.dev/instance": null, "team": "theirs"}}});
        rig.patch(kind, "default", name, without).await;
        let after = rig.until(kind, "default", name, is_marked).await;
        assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"], "{kind}");
        assert_eq!(after["metadata"]["labels"]["team"], "theirs", "{kind}");
    }
    let gateway = rig.until(GATEWAY, "default", "g", |g| condition(g, "Programmed").0 == "True").await;
    assert_eq!(gateway["status"]["addresses"][0]["value"], "192.0.2.10");
}
