//! Addresses and ports of Services.
//!
//! Owns: which cluster addresses and node ports are taken. Invariants: no two Services hold the same address or the
//! same port and protocol; what is taken for a write that fails is given back; a Service keeps what it has over
//! edits.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::clock;
use crate::error::{ApiError, ApiResult, Cause};
use crate::object;
use crate::rest::Call;

/// First address and number of addresses of the cluster's Services. Source: kubeadm's default, 10.96.0.0/12.
/// Nothing listens on them.
const ADDRESSES: (Ipv4Addr, u32) = (Ipv4Addr::new(10, 96, 0, 0), 1 << 20);
/// The address of the API's own Service, the first of the range.
pub(crate) const API_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// Source: kube-apiserver's default for `--service-node-port-range`.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;
/// Random draws before the range is searched in order.
const DRAWS: usize = 16;

/// The Service that holds something, `namespace/name`.
type Holder = String;

#[derive(Debug, Default)]
struct Taken {
    addresses: HashMap<IpAddr, Holder>,
    /// By number and protocol.
    ports: HashMap<(u16, String), Holder>,
}

/// What the Services hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct Services {
    taken: Arc<Mutex<Taken>>,
}

/// Something taken for a write; given back when dropped without [`Grant::keep`].
#[derive(Default)]
pub(crate) struct Grant {
    services: Option<Services>,
    addresses: Vec<IpAddr>,
    ports: Vec<(u16, String)>,
    /// Given back when the write is done, because the Service no longer wants it.
    dropped_addresses: Vec<IpAddr>,
    dropped_ports: Vec<(u16, String)>,
}

impl Grant {
    /// The write was committed.
    pub(crate) fn keep(mut self) {
        if let Some(services) = self.services.take() {
            let mut taken = services.taken.lock();
            self.dropped_addresses.iter().for_each(|address| drop(taken.addresses.remove(address)));
            self.dropped_ports.iter().for_each(|port| drop(taken.ports.remove(port)));
        }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if let Some(services) = self.services.take() {
            let mut taken = services.taken.lock();
            self.addresses.iter().for_each(|address| drop(taken.addresses.remove(address)));
            self.ports.iter().for_each(|port| drop(taken.ports.remove(port)));
        }
    }
}

/// Whether Services of this type have a cluster address.
fn has_address(spec: &Value) -> bool {
    object::text(spec, "/type") != "ExternalName"
}

fn has_node_ports(spec: &Value) -> bool {
    match object::text(spec, "/type") {
        "NodePort" => true,
        "LoadBalancer" => spec.get("allocateLoadBalancerNodePorts") != Some(&Value::Bool(false)),
        _ => false,
    }
}

fn addresses_of(spec: &Value) -> Vec<IpAddr> {
    object::array(spec, "/clusterIPs")
        .iter()
        .filter_map(Value::as_str)
        .filter_map(|text| text.parse().ok())
        .collect()
}

fn ports_of(spec: &Value) -> Vec<(u16, String)> {
    object::array(spec, "/ports").iter().filter_map(|port| Some((node_port(port)?, protocol(port)))).collect()
}

fn node_port(port: &Value) -> Option<u16> {
    port.get("nodePort")
        .and_then(Value::as_u64)
        .filter(|number| *number > 0)
        .and_then(|number| u16::try_from(number).ok())
}

fn protocol(port: &Value) -> String {
    object::text(port, "/protocol").to_owned()
}

impl Services {
    /// Fills in addresses and ports of a Service that is about to be written.
    pub(crate) fn allocate(&self, call: &Call, old: Option<&Value>, object: &mut Value) -> ApiResult<Grant> {
        let holder = object::key(object::namespace(object), object::name(object));
        let nothing = json!({});
        let old_spec = old.and_then(|old| old.get("spec")).unwrap_or(&nothing);
        let subject = call.kind_subject(object::name(object));
        let refused = |cause| ApiError::invalid(subject.clone(), vec![cause]);
        let spec = object::child(object, "spec");
        let mut grant = Grant::default();
        grant.services = Some(self.clone());
        let mut taken = self.taken.lock();
        let result = settle_address(&mut taken, &holder, old_spec, spec, &mut grant)
            .and_then(|()| settle_ports(&mut taken, &holder, old_spec, spec, &mut grant));
        drop(taken);
        result.map_err(refused)?;
        Ok(grant)
    }

    /// Gives back what a deleted Service held.
    pub(crate) fn release(&self, object: &Value) {
        let nothing = json!({});
        let spec = object.get("spec").unwrap_or(&nothing);
        let mut taken = self.taken.lock();
        addresses_of(spec).iter().for_each(|address| drop(taken.addresses.remove(address)));
        ports_of(spec).iter().for_each(|port| drop(taken.ports.remove(port)));
    }
}

fn settle_address(
    taken: &mut Taken,
    holder: &str,
    old: &Value,
    spec: &mut Value,
    grant: &mut Grant,
) -> Result<(), Cause> {
    let had = addresses_of(old);
    if !has_address(spec) {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            object::as_map(spec).shift_remove(field);
        }
        grant.dropped_addresses = had;
        return Ok(());
    }
    object::default_field(spec, "ipFamilies", json!(["IPv4"]));
    object::default_field(spec, "ipFamilyPolicy", "SingleStack");
    let mut wanted = object::text(spec, "/clusterIP").to_owned();
    if wanted.is_empty() {
        wanted = object::text(spec, "/clusterIPs/0").to_owned();
    }
    if wanted.is_empty() && has_address(old) {
        wanted = object::text(old, "/clusterIP").to_owned();
    }
    let before = object::text(old, "/clusterIP");
    if !before.is_empty() && has_address(old) && before != wanted {
        return Err(Cause::invalid("spec.clusterIPs[0]", &json!([wanted]), "may not change once set"));
    }
    if wanted != "None" && (before.is_empty() || !has_address(old)) {
        let address = if wanted.is_empty() { free_address(taken)? } else { stated_address(taken, &wanted)? };
        taken.addresses.insert(address, holder.to_owned());
        grant.addresses.push(address);
        wanted = address.to_string();
    }
    object::as_map(spec).insert("clusterIP".to_owned(), Value::from(wanted.as_str()));
    object::as_map(spec).insert("clusterIPs".to_owned(), json!([wanted]));
    Ok(())
}

fn stated_address(taken: &Taken, text: &str) -> Result<IpAddr, Cause> {
    let value = json!([text]);
    let refused = |detail: String| Cause::invalid("spec.clusterIPs", &value, &detail);
    let address: IpAddr = text.parse().map_err(|_| {
        refused(
            "must be empty (or null), \"None\", or a valid IP address (e.g. 10.9.8.7 or 2001:db8::ffff)"
                .to_owned(),
        )
    })?;
    let (first, count) = ADDRESSES;
    let in_range = matches!(address, IpAddr::V4(v4) if u32::from(v4).wrapping_sub(u32::from(first)) < count);
    if !in_range {
        return Err(refused(format!(
            "failed to allocate IP {text}: the provided IP ({text}) is not in the valid range. The range of valid IPs is {first}/12"
        )));
    }
    if taken.addresses.contains_key(&address) {
        return Err(refused(format!("failed to allocate IP {text}: provided IP is already allocated")));
    }
    Ok(address)
}

fn free_address(taken: &Taken) -> Result<IpAddr, Cause> {
    let (first, count) = ADDRESSES;
    // The first and the last address of the range are no host's.
    let at = |offset: u32| IpAddr::V4(Ipv4Addr::from(u32::from(first) + 1 + offset % (count - 2)));
    let start = clock::random_below(count - 2);
    let drawn = (0..DRAWS).map(|_| clock::random_below(count - 2));
    drawn
        .chain((0..count - 2).map(|step| start + step))
        .map(at)
        .find(|address| !taken.addresses.contains_key(address) && *address != IpAddr::V4(API_ADDRESS))
        .ok_or_else(|| Cause::invalid("spec.clusterIPs", &json!([]), "failed to allocate IP: range is full"))
}

fn settle_ports(
    taken: &mut Taken,
    holder: &str,
    old: &Value,
    spec: &mut Value,
    grant: &mut Grant,
) -> Result<(), Cause> {
    let had = ports_of(old);
    let wants = has_node_ports(spec);
    let was_exposed = matches!(object::text(old, "/type"), "NodePort" | "LoadBalancer");
    let is_exposed = matches!(object::text(spec, "/type"), "NodePort" | "LoadBalancer");
    let old_ports: Vec<Value> = object::array(old, "/ports").to_vec();
    let mut now: Vec<(u16, String)> = Vec::new();
    let Some(Value::Array(ports)) = spec.get_mut("ports") else {
        grant.dropped_ports = had;
        return Ok(());
    };
    for (index, port) in ports.iter_mut().enumerate() {
        if !is_exposed {
            // A Service that is no longer exposed loses the ports that it was given.
            if was_exposed && node_port(port).is_some_and(|number| had.contains(&(number, protocol(port)))) {
                object::as_map(port).shift_remove("nodePort");
            }
            if node_port(port).is_some() {
                let detail = "may not be used when `type` is 'ClusterIP'";
                return Err(Cause::forbidden(format!("spec.ports[{index}].nodePort"), detail));
            }
            continue;
        }
        let protocol = protocol(port);
        let number = match node_port(port) {
            Some(number) => Some(number),
            None => kept_port(&old_ports, port),
        };
        let number = match number {
            Some(number) => claim_port(taken, holder, number, &protocol, index)?,
            None if wants => free_port(taken, &protocol, index)?,
            None => continue,
        };
        let key = (number, protocol);
        if taken.ports.insert(key.clone(), holder.to_owned()).is_none() {
            grant.ports.push(key.clone());
        }
        now.push(key);
        object::as_map(port).insert("nodePort".to_owned(), Value::from(number));
    }
    grant.dropped_ports = had.into_iter().filter(|key| !now.contains(key)).collect();
    Ok(())
}

/// The node port that the same port of the Service had before the edit.
fn kept_port(old: &[Value], port: &Value) -> Option<u16> {
    let same = |key: &str, other: &Value| other.get(key) == port.get(key);
    old.iter().find(|other| same("port", other) && same("protocol", other)).and_then(node_port)
}

fn claim_port(taken: &Taken, holder: &str, number: u16, protocol: &str, index: usize) -> Result<u16, Cause> {
    let at = format!("spec.ports[{index}].nodePort");
    if !NODE_PORTS.contains(&number) {
        let detail = format!(
            "provided port is not in the valid range. The range of valid ports is {}-{}",
            NODE_PORTS.start(),
            NODE_PORTS.end()
        );
        return Err(Cause::invalid(at, &Value::from(number), &detail));
    }
    match taken.ports.get(&(number, protocol.to_owned())) {
        Some(other) if other != holder => {
            Err(Cause::invalid(at, &Value::from(number), "provided port is already allocated"))
        }
        _ => Ok(number),
    }
}

fn free_port(taken: &Taken, protocol: &str, index: usize) -> Result<u16, Cause> {
    let count = u32::from(NODE_PORTS.end() - NODE_PORTS.start()) + 1;
    let at = |offset: u32| NODE_PORTS.start() + u16::try_from(offset % count).unwrap_or(0);
    let start = clock::random_below(count);
    let drawn = (0..DRAWS).map(|_| clock::random_below(count));
    drawn
        .chain((0..count).map(|step| start + step))
        .map(at)
        // Free for every protocol, so that another one can have the same number later.
        .find(|number| {
            ["TCP", "UDP", "SCTP", protocol]
                .iter()
                .all(|one| !taken.ports.contains_key(&(*number, (*one).to_owned())))
        })
        .ok_or_else(|| {
            Cause::invalid(format!("spec.ports[{index}].nodePort"), &Value::from(0), "no node port is free")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: &Value) -> Value {
        json!({"metadata": {"name": "s", "namespace": "n"}, "spec": spec})
    }

    /// Allocates under a name; gives the spec, or what is wrong.
    fn settle(services: &Services, holder: &str, old: &Value, spec: Value) -> Result<(Value, Grant), Cause> {
        let mut spec = spec;
        let mut grant = Grant::default();
        grant.services = Some(services.clone());
        let mut taken = services.taken.lock();
        let settled = settle_address(&mut taken, holder, old, &mut spec, &mut grant)
            .and_then(|()| settle_ports(&mut taken, holder, old, &mut spec, &mut grant));
        drop(taken);
        settled.map(|()| (spec, grant))
    }

    fn balancer(ports: Value) -> Value {
        json!({"type": "LoadBalancer", "ports": ports})
    }

    #[test]
    fn no_two_services_hold_the_same() {
        let services = Services::default();
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..200 {
            let ports = json!([{"port": 80, "protocol": "TCP"}, {"port": 443, "protocol": "TCP"}]);
            let (spec, grant) = settle(&services, &n.to_string(), &json!({}), balancer(ports)).expect("room");
            grant.keep();
            assert!(seen.insert(spec["clusterIP"].to_string()));
            for port in spec["ports"].as_array().expect("ports") {
                assert!(seen.insert(port["nodePort"].to_string()));
            }
        }
    }

    #[test]
    fn what_a_failed_write_took_is_given_back() {
        let services = Services::default();
        let stated = || balancer(json!([{"port": 80, "protocol": "TCP", "nodePort": 30_080}]));
        let (_, grant) = settle(&services, "a", &json!({}), stated()).expect("free");
        assert_eq!(
            settle(&services, "b", &json!({}), stated()).err().expect("taken").field,
            "spec.ports[0].nodePort"
        );
        drop(grant);
        let (_, grant) = settle(&services, "b", &json!({}), stated()).expect("free again");
        grant.keep();
        assert!(settle(&services, "c", &json!({}), stated()).is_err());
    }

    #[test]
    fn a_service_keeps_what_it_has_and_loses_what_it_no_longer_wants() {
        let services = Services::default();
        let ports = || json!([{"port": 80, "protocol": "TCP"}]);
        let (old, grant) = settle(&services, "a", &json!({}), balancer(ports())).expect("room");
        grant.keep();
        let (same, grant) = settle(&services, "a", &old, balancer(ports())).expect("its own");
        grant.keep();
        assert_eq!(same["clusterIP"], old["clusterIP"]);
        assert_eq!(same["ports"], old["ports"]);
        let inner = json!({"type": "ClusterIP", "clusterIP": old["clusterIP"], "ports": old["ports"]});
        let (inner, grant) = settle(&services, "a", &old, inner).expect("narrowed");
        grant.keep();
        assert_eq!(inner["ports"][0].get("nodePort"), None);
        let again =
            balancer(json!([{"port": 1, "protocol": "TCP", "nodePort": old["ports"][0]["nodePort"]}]));
        assert!(settle(&services, "b", &json!({}), again).is_ok(), "its port is free");
        assert!(
            settle(&services, "a", &old, json!({"type": "ClusterIP", "clusterIP": "10.96.0.9"})).is_err(),
            "the address stays"
        );
        services.release(&service(&old));
        let (external, _) = settle(&services, "a", &old, json!({"type": "ExternalName", "clusterIP": ""}))
            .expect("no address");
        assert_eq!(external.get("clusterIP"), None);
    }

    #[test]
    fn stated_addresses_and_ports_are_held_to_their_ranges() {
        let services = Services::default();
        for wrong in ["1.2.3.4", "x", "10.112.0.1"] {
            assert!(
                settle(&services, "a", &json!({}), json!({"type": "ClusterIP", "clusterIP": wrong})).is_err(),
                "{wrong}"
            );
        }
        let low = balancer(json!([{"port": 80, "protocol": "TCP", "nodePort": 80}]));
        assert!(settle(&services, "a", &json!({}), low).is_err());
        let inner =
            json!({"type": "ClusterIP", "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30_001}]});
        assert_eq!(
            settle(&services, "a", &json!({}), inner).err().expect("not exposed").field,
            "spec.ports[0].nodePort"
        );
        let (headless, _) =
            settle(&services, "a", &json!({}), json!({"type": "ClusterIP", "clusterIP": "None"}))
                .expect("headless");
        assert_eq!(headless["clusterIPs"], json!(["None"]));
    }
}
