//! One address for everything: file mode.
//!
//! Invariant: an address that a Gateway asks for is taken at its word; if it is not one of this machine, the bind says
//! so. Deliberately absent: choosing, sharing out and keeping addresses; Gateways on one address and port meet there,
//! and the listeners say who conflicts.

use std::net::IpAddr;

use weir_api::gateway_api::AddressType;
use weir_core::AddressProblem;

use super::{Assigned, Assignment, GatewayView};

/// The address of every Gateway that does not ask for one.
#[derive(Clone, Debug)]
pub struct Fixed {
    default: IpAddr,
}

impl Fixed {
    /// Gateways without `spec.addresses` are served at `default`.
    pub fn new(default: IpAddr) -> Fixed {
        Fixed { default }
    }

    pub(super) fn assign(&self, gateways: &[GatewayView]) -> Assignment {
        let gateways = gateways.iter().map(|view| (view.key.clone(), self.assign_one(view))).collect();
        Assignment { gateways, shared: None }
    }

    /// What can be had of what is asked for, and the first thing that cannot.
    fn assign_one(&self, view: &GatewayView) -> Assigned {
        let mut assigned = Assigned::default();
        for request in &view.requested {
            let value = request.value.as_deref().unwrap_or_default();
            let address = match (&request.type_, value.parse::<IpAddr>()) {
                (AddressType::IpAddress, Ok(address)) => Ok(address),
                (AddressType::IpAddress, Err(_)) if value.is_empty() => Ok(self.default),
                (AddressType::IpAddress, Err(_)) => Err(format!("{value:?} is not an IP address")),
                (other, _) => Err(format!("an address of type {other} cannot be had here, only IPAddress")),
            };
            match address {
                Ok(address) if !assigned.addresses.contains(&address) => assigned.addresses.push(address),
                Ok(_) => {}
                Err(why) => {
                    assigned.problem.get_or_insert(AddressProblem::NotUsable(why));
                }
            }
        }
        if view.requested.is_empty() {
            assigned.addresses.push(self.default);
        }
        assigned
    }
}

#[cfg(test)]
mod tests {
    use super::Fixed;
    use crate::provision::{
        GatewayView,
        sandbox::tests::{asking, view},
    };
    use weir_api::gateway_api::AddressType;
    use weir_core::AddressProblem;

    #[test]
    fn a_gateway_gets_what_it_asks_for_else_the_default() {
        let fixed = Fixed::new("127.0.0.1".parse().unwrap());
        let views: [GatewayView; 4] = [
            view("plain"),
            asking("any", AddressType::IpAddress, ""),
            asking("six", AddressType::IpAddress, "::1"),
            asking("host", AddressType::Hostname, "example.com"),
        ];
        let assigned = fixed.assign(&views).gateways;
        let of = |index: usize| &assigned[&views[index].key];
        assert_eq!(of(0).addresses, ["127.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!(of(1), of(0));
        assert_eq!(of(2).addresses, ["::1".parse::<std::net::IpAddr>().unwrap()]);
        assert!(of(3).addresses.is_empty());
        assert!(matches!(&of(3).problem, Some(AddressProblem::NotUsable(why)) if why.contains("Hostname")));
    }
}
