//! What is there before any client: namespaces, the API's own Service, the built-in definitions.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::admission::services::API_ADDRESS;
use crate::auth::User;
use crate::error::{ApiError, ApiResult};
use crate::registry::{Resource, Version};
use crate::rest::negotiate::Accept;
use crate::rest::path::Params;
use crate::rest::{Api, Call};
use crate::{ApiServerError, Channel};

/// Namespaces of a new cluster.
const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

pub(crate) fn install(api: &Arc<Api>, channel: Channel) -> Result<(), ApiServerError> {
    for name in NAMESPACES {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        create(api, "", "namespaces", object)?;
    }
    create(api, "", "services", api_service())?;
    for (_, definition) in weir_schema::crds::builtin(channel) {
        define(api, definition)?;
    }
    Ok(())
}

/// The Service by which pods of a cluster find the API. Nothing here resolves it; clients expect it to be there.
fn api_service() -> Value {
    let address = API_ADDRESS.to_string();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "clusterIPs": [address],
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}],
        },
    })
}

/// Stores a definition that comes with this program. It is not validated at every start, for a test does that; its
/// schemas are compiled when they are first needed.
fn define(api: &Arc<Api>, mut definition: Value) -> Result<(), ApiServerError> {
    let name = crate::object::name(&definition).to_owned();
    let install = |definition: &mut Value| -> ApiResult<()> {
        let mut call = Call::internal(api, "apiextensions.k8s.io", "customresourcedefinitions", definition)?;
        call.manager = "kubectl".to_owned();
        api.install_definition(&call, std::mem::take(definition))
    };
    install(&mut definition).map_err(|source| ApiServerError::Builtin {
        object: format!("CustomResourceDefinition {name}"),
        source,
    })
}

fn create(api: &Arc<Api>, group: &str, plural: &str, object: Value) -> Result<(), ApiServerError> {
    let name = format!("{} {}", crate::object::text(&object, "/kind"), crate::object::name(&object));
    let create = || -> ApiResult<()> {
        let call = Call::internal(api, group, plural, &object)?;
        api.create_own(&call, object.clone())?;
        Ok(())
    };
    create().map_err(|source| ApiServerError::Builtin { object: name, source })
}

impl Call {
    /// A call of the server itself about an object that is stored.
    pub(crate) fn internal_for(resource: &Arc<Resource>, version: &Arc<Version>, object: &Value) -> Call {
        Call {
            user: User::admin(),
            namespace: crate::object::namespace(object).to_owned(),
            name: crate::object::name(object).to_owned(),
            subresource: String::new(),
            params: Params::default(),
            accept: Accept::JSON,
            manager: "weir".to_owned(),
            content_type: String::new(),
            warnings: Mutex::new(Vec::new()),
            resource: resource.clone(),
            version: version.clone(),
        }
    }

    /// A call of the server itself about one object.
    pub(crate) fn internal(api: &Api, group: &str, plural: &str, object: &Value) -> ApiResult<Call> {
        let registry = api.registry();
        let resource = registry.get(group, plural).ok_or_else(ApiError::unknown_path)?.clone();
        let (_, version) = crate::registry::split_api_version(crate::object::text(object, "/apiVersion"));
        let version = resource.version(version).ok_or_else(ApiError::unknown_path)?.clone();
        Ok(Call::internal_for(&resource, &version, object))
    }
}
