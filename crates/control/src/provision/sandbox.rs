//! Loopback addresses out of a range, one for each Gateway; one for all unmanaged Gateways together.
//!
//! Invariants: an address has one owner; an owner keeps its address until it goes or asks for another; the first choice
//! depends on the Gateway's name alone, so it is the same after a restart and for anybody who runs the same manifests.
//! Deliberately absent: whether another process uses the address (a bind finds that out, port by port).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use weir_api::gateway_api::AddressType;
use weir_core::{AddressProblem, ObjectKey, RequestedAddress};

use super::{Assigned, Assignment, GatewayView};

/// A block of addresses inside `127.0.0.0/8`, written `127.64.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    first: u32,
    /// 8 to 30.
    prefix: u8,
}

/// Why a text is not a range.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a block of loopback addresses such as 127.64.0.0/16 (prefix 8 to 30, inside 127.0.0.0/8)"
)]
pub struct AddressRangeError {
    text: String,
}

impl FromStr for AddressRange {
    type Err = AddressRangeError;

    fn from_str(text: &str) -> Result<AddressRange, AddressRangeError> {
        let refused = || AddressRangeError { text: text.to_owned() };
        let (address, prefix) = text.split_once('/').ok_or_else(refused)?;
        let address: Ipv4Addr = address.parse().map_err(|_| refused())?;
        let prefix: u8 = prefix.parse().map_err(|_| refused())?;
        if !address.is_loopback() || !(8..=30).contains(&prefix) {
            return Err(refused());
        }
        // 8 <= prefix <= 30, so the shift is in range.
        let mask = u32::MAX << (32 - prefix);
        Ok(AddressRange { first: u32::from(address) & mask, prefix })
    }
}

impl std::fmt::Display for AddressRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.first), self.prefix)
    }
}

impl AddressRange {
    fn size(self) -> u32 {
        1 << (32 - self.prefix)
    }

    /// Whether the address is in the block.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address).wrapping_sub(self.first) < self.size()
    }

    /// The addresses of the block in order, beginning somewhere; those that end in 0 or 255 are left out, because
    /// people take them for networks.
    fn beginning_at(self, start: u64) -> impl Iterator<Item = Ipv4Addr> {
        let size = self.size();
        // The remainder is below size, which is a u32.
        let start = (start % u64::from(size)) as u32;
        (0..size)
            .map(move |step| Ipv4Addr::from(self.first + ((start + step) & (size - 1))))
            .filter(|address| !matches!(address.octets()[3], 0 | 255))
    }
}

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    /// All unmanaged Gateways.
    Shared,
    Gateway(ObjectKey),
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Owner::Shared => f.write_str("the unmanaged Gateways"),
            Owner::Gateway(key) => write!(f, "{key}"),
        }
    }
}

/// The addresses of a sandbox.
#[derive(Clone, Debug)]
pub struct Sandbox {
    range: AddressRange,
    held: BTreeMap<Owner, Vec<IpAddr>>,
    owners: BTreeMap<IpAddr, Owner>,
}

impl Sandbox {
    /// Addresses are chosen from `range`; a Gateway may ask for any loopback address.
    pub fn new(range: AddressRange) -> Sandbox {
        Sandbox { range, held: BTreeMap::new(), owners: BTreeMap::new() }
    }

    pub(super) fn assign(&mut self, gateways: &[GatewayView], shared_wanted: bool) -> Assignment {
        let unmanaged = gateways.iter().any(GatewayView::is_unmanaged);
        let shared_wanted = shared_wanted || unmanaged;
        let mut present: Vec<Owner> = gateways
            .iter()
            .filter(|view| !view.is_unmanaged())
            .map(|view| Owner::Gateway(view.key.clone()))
            .collect();
        present.extend(shared_wanted.then_some(Owner::Shared));
        present.sort();
        let gone: Vec<Owner> =
            self.held.keys().filter(|owner| present.binary_search(owner).is_err()).cloned().collect();
        for owner in &gone {
            self.release(owner);
        }
        let previous =
            gateways.iter().find(|view| view.is_unmanaged()).map_or(&[][..], |view| &view.previous);
        let shared = shared_wanted.then(|| self.shared(previous)).flatten();
        let mut assigned = BTreeMap::new();
        // Requests first: what is asked for by name is not given to one who takes any.
        let (asking, any): (Vec<&GatewayView>, Vec<&GatewayView>) =
            gateways.iter().partition(|view| view.requested.iter().any(|request| request.value.is_some()));
        for view in asking.into_iter().chain(any) {
            let outcome = if view.is_unmanaged() { share(view, shared) } else { self.assign_one(view) };
            assigned.insert(view.key.clone(), outcome);
        }
        Assignment { gateways: assigned, shared }
    }

    fn shared(&mut self, previous: &[IpAddr]) -> Option<IpAddr> {
        if let Some(held) = self.held.get(&Owner::Shared) {
            return held.first().copied();
        }
        let address = self.free("kong/kong-gateway-proxy", previous)?;
        self.hold(Owner::Shared, vec![address]);
        Some(address)
    }

    /// What can be had of what is asked for, and the first thing that cannot.
    fn assign_one(&mut self, view: &GatewayView) -> Assigned {
        let owner = Owner::Gateway(view.key.clone());
        let before = self.release(&owner);
        let mut assigned = Assigned::default();
        let mut any = view.requested.is_empty();
        for request in &view.requested {
            match self.requested(request, &owner) {
                Ok(Some(address)) if !assigned.addresses.contains(&address) => {
                    assigned.addresses.push(address)
                }
                Ok(Some(_)) => {}
                Ok(None) => any = true,
                Err(why) => {
                    assigned.problem.get_or_insert(AddressProblem::NotUsable(why));
                }
            }
        }
        if any {
            let kept: Vec<IpAddr> = before.iter().chain(&view.previous).copied().collect();
            let name = format!("{}/{}", view.key.namespace, view.key.name);
            match self.free(&name, &kept) {
                Some(address) => assigned.addresses.push(address),
                None => assigned.problem = Some(self.exhausted()),
            }
        }
        self.hold(owner, assigned.addresses.clone());
        assigned
    }

    fn exhausted(&self) -> AddressProblem {
        AddressProblem::NotAssigned(format!("no address is free in {}", self.range))
    }

    /// The address that is asked for by value; `None` where any will do.
    fn requested(&self, request: &RequestedAddress, owner: &Owner) -> Result<Option<IpAddr>, String> {
        if request.type_ != AddressType::IpAddress {
            return Err(format!("an address of type {} cannot be had here, only IPAddress", request.type_));
        }
        let value = request.value.as_deref().unwrap_or_default();
        if value.is_empty() {
            return Ok(None);
        }
        let address: IpAddr = value.parse().map_err(|_| format!("{value:?} is not an IP address"))?;
        if !address.is_loopback() {
            return Err(format!("{address} is not a loopback address, and a sandbox has no other"));
        }
        match self.owners.get(&address) {
            Some(other) if other != owner => Err(format!("{address} belongs to {other}")),
            _ => Ok(Some(address)),
        }
    }

    /// One of `liked` if it is free, else the first free one from where the name's hash points.
    fn free(&self, name: &str, liked: &[IpAddr]) -> Option<IpAddr> {
        let is_ours = |address: &IpAddr| match address {
            IpAddr::V4(v4) => self.range.contains(*v4),
            IpAddr::V6(_) => false,
        };
        let free = |address: &IpAddr| !self.owners.contains_key(address);
        if let Some(address) = liked.iter().find(|address| is_ours(address) && free(address)) {
            return Some(*address);
        }
        self.range.beginning_at(hash(name)).map(IpAddr::V4).find(free)
    }

    fn hold(&mut self, owner: Owner, addresses: Vec<IpAddr>) {
        for address in &addresses {
            self.owners.insert(*address, owner.clone());
        }
        self.held.insert(owner, addresses);
    }

    fn release(&mut self, owner: &Owner) -> Vec<IpAddr> {
        let held = self.held.remove(owner).unwrap_or_default();
        for address in &held {
            self.owners.remove(address);
        }
        held
    }
}

/// The one address of unmanaged Gateways; whoever asks for another is told.
fn share(view: &GatewayView, shared: Option<IpAddr>) -> Assigned {
    let Some(shared) = shared else {
        let problem = AddressProblem::NotAssigned("no address is free for the unmanaged Gateways".to_owned());
        return Assigned { problem: Some(problem), ..Assigned::default() };
    };
    let other = view.requested.iter().find(|request| {
        let value = request.value.as_deref().unwrap_or_default();
        request.type_ != AddressType::IpAddress || !(value.is_empty() || value.parse() == Ok(shared))
    });
    let problem = other.map(|request| {
        AddressProblem::NotUsable(format!(
            "unmanaged Gateways share the address {shared}; {} cannot be had beside it",
            request.value.as_deref().unwrap_or(request.type_.as_str())
        ))
    });
    Assigned { addresses: vec![shared], problem, ..Assigned::default() }
}

/// FNV-1a with a final mix (so that the low bits depend on every byte): the same on every machine and in every release.
pub(crate) fn hash(text: &str) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in text.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}

#[cfg(test)]
pub(in crate::provision) mod tests {
    use super::{AddressRange, Sandbox};
    use crate::provision::{Assigned, GatewayView};
    use std::net::IpAddr;
    use weir_api::gateway_api::AddressType;
    use weir_api::kong::{KIC_CONTROLLER, WEIR_CONTROLLER};
    use weir_core::{AddressProblem, ClassKind, Kind, ObjectKey, RequestedAddress};

    pub(in crate::provision) fn view(name: &str) -> GatewayView {
        GatewayView {
            key: ObjectKey::new(Kind::Gateway, "default", name),
            uid: name.to_owned(),
            created_seconds: 0,
            kind: ClassKind::Weir,
            controller: WEIR_CONTROLLER.to_owned(),
            requested: Vec::new(),
            previous: Vec::new(),
            ports: Vec::new(),
            labels: Default::default(),
            annotations: Default::default(),
            publish_service: None,
            listeners: Vec::new(),
            drain: std::time::Duration::from_secs(35),
            configuration: None,
            frozen: false,
        }
    }

    pub(in crate::provision) fn asking(name: &str, type_: AddressType, value: &str) -> GatewayView {
        let value = (!value.is_empty()).then(|| value.to_owned());
        GatewayView { requested: vec![RequestedAddress { type_, value }], ..view(name) }
    }

    pub(in crate::provision) fn unmanaged(name: &str) -> GatewayView {
        GatewayView { kind: ClassKind::Unmanaged, controller: KIC_CONTROLLER.to_owned(), ..view(name) }
    }

    fn sandbox() -> Sandbox {
        Sandbox::new("127.64.0.0/16".parse().unwrap())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_is_a_block_of_loopback_addresses() {
        let range: AddressRange = "127.64.9.9/16".parse().unwrap();
        assert_eq!(range.to_string(), "127.64.0.0/16");
        assert!(range.contains("127.64.255.255".parse().unwrap()));
        assert!(!range.contains("127.65.0.0".parse().unwrap()));
        for text in ["", "127.0.0.1", "10.0.0.0/8", "127.0.0.0/7", "127.0.0.0/31", "::1/64"] {
            assert!(text.parse::<AddressRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn every_gateway_has_an_address_of_its_own_and_keeps_it() {
        let mut sandbox = sandbox();
        let views: Vec<GatewayView> = (0..200).map(|n| view(&format!("g{n}"))).collect();
        let first = sandbox.assign(&views, false);
        let mut addresses: Vec<IpAddr> =
            first.gateways.values().flat_map(|assigned| assigned.addresses.clone()).collect();
        assert_eq!(addresses.len(), 200);
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 200);
        let fewer = sandbox.assign(&views[50..], false);
        for view in &views[50..] {
            assert_eq!(fewer.gateways[&view.key], first.gateways[&view.key]);
        }
        assert_eq!(super::Sandbox::new(sandbox.range).assign(&views, false), first, "stable over restarts");
    }

    #[test]
    fn a_small_range_runs_out_with_a_reason_and_released_addresses_come_back() {
        let mut sandbox = Sandbox::new("127.64.0.4/30".parse().unwrap());
        let views: Vec<GatewayView> = (0..5).map(|n| view(&format!("g{n}"))).collect();
        let full = sandbox.assign(&views, false);
        let without: Vec<&Assigned> =
            full.gateways.values().filter(|assigned| assigned.addresses.is_empty()).collect();
        assert_eq!(without.len(), 1);
        assert!(
            matches!(&without[0].problem, Some(AddressProblem::NotAssigned(why)) if why.contains("127.64.0.4/30"))
        );
        let fewer = sandbox.assign(&views[1..], false);
        assert!(fewer.gateways.values().all(|assigned| assigned.problem.is_none()));
    }

    #[test]
    fn an_address_in_the_status_is_taken_up_again() {
        let before = GatewayView { previous: vec![ip("127.64.7.7")], ..view("g") };
        assert_eq!(sandbox().assign(&[before], false).gateways[&view("g").key].addresses, [ip("127.64.7.7")]);
        let outside = GatewayView { previous: vec![ip("127.1.1.1")], ..view("g") };
        assert_ne!(sandbox().assign(&[outside], false).gateways[&view("g").key].addresses, [ip("127.1.1.1")]);
    }

    #[test]
    fn a_request_is_honoured_if_free_and_loopback() {
        let mut sandbox = sandbox();
        let a = asking("a", AddressType::IpAddress, "127.9.9.9");
        let b = asking("b", AddressType::IpAddress, "127.9.9.9");
        let far = asking("far", AddressType::IpAddress, "192.0.2.1");
        let host = asking("host", AddressType::Hostname, "example.com");
        let empty = asking("empty", AddressType::IpAddress, "");
        let assigned = sandbox.assign(&[a.clone(), b.clone(), far, host, empty], false).gateways;
        assert_eq!(assigned[&a.key].addresses, [ip("127.9.9.9")]);
        let problem = |name: &str| assigned[&view(name).key].problem.clone().unwrap();
        assert_eq!(
            problem("b"),
            AddressProblem::NotUsable("127.9.9.9 belongs to Gateway default/a".to_owned())
        );
        assert!(matches!(problem("far"), AddressProblem::NotUsable(_)));
        assert!(matches!(problem("host"), AddressProblem::NotUsable(_)));
        assert_eq!(assigned[&view("empty").key].addresses.len(), 1);
        assert_eq!(
            sandbox.assign(std::slice::from_ref(&b), false).gateways[&b.key].addresses,
            [ip("127.9.9.9")]
        );
    }

    #[test]
    fn what_can_be_had_is_given_beside_what_cannot() {
        let mut both = asking("g", AddressType::IpAddress, "192.0.2.1");
        both.requested
            .push(RequestedAddress { type_: AddressType::IpAddress, value: Some("127.8.8.8".to_owned()) });
        let assigned = sandbox().assign(&[both.clone()], false).gateways;
        assert_eq!(assigned[&both.key].addresses, [ip("127.8.8.8")]);
        assert!(
            matches!(&assigned[&both.key].problem, Some(AddressProblem::NotUsable(why)) if why.contains("192.0.2.1"))
        );
    }

    #[test]
    fn unmanaged_gateways_share_one_address_which_is_there_before_them() {
        let mut sandbox = sandbox();
        assert_eq!(sandbox.assign(&[], false).shared, None);
        let shared = sandbox.assign(&[], true).shared.unwrap();
        let both = sandbox.assign(&[unmanaged("a"), unmanaged("b"), view("own")], true);
        assert_eq!(both.shared, Some(shared));
        assert_eq!(both.gateways[&view("a").key].addresses, [shared]);
        assert_eq!(both.gateways[&view("b").key].addresses, [shared]);
        assert_ne!(both.gateways[&view("own").key].addresses, [shared]);
        let taker = asking("taker", AddressType::IpAddress, &shared.to_string());
        assert!(sandbox.assign(std::slice::from_ref(&taker), true).gateways[&taker.key].problem.is_some());
    }

    #[test]
    fn a_gateway_that_changes_to_a_managed_class_moves() {
        let mut sandbox = sandbox();
        let shared = sandbox.assign(&[unmanaged("kong")], true).shared.unwrap();
        let managed = GatewayView { previous: vec![shared], ..view("kong") };
        let moved = sandbox.assign(&[managed], true);
        assert_eq!(moved.shared, Some(shared));
        assert_ne!(moved.gateways[&view("kong").key].addresses, [shared]);
    }
}
