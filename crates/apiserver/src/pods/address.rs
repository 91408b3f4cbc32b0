//! One loopback address per pod.
//!
//! Owns: which addresses of the range are taken. Invariants: an address is given to one pod at a time, and a released
//! one comes back as late as the range allows, because clients may still know it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A range of IPv4 loopback addresses, written `127.80.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    first: u32,
    prefix: u8,
}

/// Why a text is no range.
#[derive(Debug, thiserror::Error)]
pub enum AddressRangeError {
    /// Not of the form `127.x.y.z/n`.
    #[error("`{0}` is not an IPv4 range such as 127.80.0.0/16")]
    Form(String),
    /// Not in 127.0.0.0/8, or with less than two addresses.
    #[error("`{0}` is not a part of 127.0.0.0/8 with a prefix of 8 to 30")]
    Bounds(String),
}

impl FromStr for AddressRange {
    type Err = AddressRangeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || AddressRangeError::Form(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(form)?;
        let address: Ipv4Addr = address.parse().map_err(|_| form())?;
        let prefix: u8 = prefix.parse().map_err(|_| form())?;
        if !address.is_loopback() || !(8..=30).contains(&prefix) {
            return Err(AddressRangeError::Bounds(text.to_owned()));
        }
        let mask = u32::MAX << (32 - u32::from(prefix));
        Ok(Self { first: u32::from(address) & mask, prefix })
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.first), self.prefix)
    }
}

impl AddressRange {
    /// 127.80.0.0/16.
    pub const DEFAULT: Self = Self { first: u32::from_be_bytes([127, 80, 0, 0]), prefix: 16 };

    /// Addresses in the range, usable or not.
    fn size(self) -> u32 {
        1 << (32 - u32::from(self.prefix))
    }

    /// Whether the address may be given to a pod: in the range, and not one that reads like a network or broadcast.
    fn offers(self, address: Ipv4Addr) -> bool {
        let number = u32::from(address);
        let inside = number >= self.first && number - self.first < self.size();
        inside && !matches!(address.octets()[3], 0 | 255)
    }
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Addresses {
    range: AddressRange,
    taken: BTreeSet<Ipv4Addr>,
    next: u32,
}

impl Addresses {
    /// `start` says where in the range to begin, so that two processes with one range rarely meet.
    pub(super) fn new(range: AddressRange, start: u32) -> Self {
        Self { range, taken: BTreeSet::new(), next: start % range.size() }
    }

    /// Takes this very address, if it is free and in the range.
    pub(super) fn take(&mut self, address: Ipv4Addr) -> bool {
        self.range.offers(address) && self.taken.insert(address)
    }

    /// Takes the next free address; None when there is none.
    pub(super) fn take_next(&mut self) -> Option<Ipv4Addr> {
        for _ in 0..self.range.size() {
            let address = Ipv4Addr::from(self.range.first + self.next);
            self.next = (self.next + 1) % self.range.size();
            if self.take(address) {
                return Some(address);
            }
        }
        None
    }

    pub(super) fn release(&mut self, address: Ipv4Addr) {
        self.taken.remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_parts_of_loopback() {
        assert_eq!("127.80.3.9/16".parse::<AddressRange>().expect("a range").to_string(), "127.80.0.0/16");
        for wrong in ["10.0.0.0/8", "127.0.0.1", "127.0.0.1/31", "127.0.0.0/7", "127.0.0.x/16"] {
            assert!(wrong.parse::<AddressRange>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_is_given_once_and_comes_back_last() {
        let mut addresses = Addresses::new("127.9.9.0/29".parse().expect("a range"), 3);
        let given: Vec<_> = std::iter::from_fn(|| addresses.take_next()).collect();
        assert_eq!(given.len(), 7); // .0 is never given
        assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), 7);
        addresses.release(given[2]);
        addresses.release(given[0]);
        // The search goes on behind the last one given.
        assert_eq!(addresses.take_next(), Some(given[0]));
        assert!(!addresses.take(given[1]));
        assert!(!addresses.take(Ipv4Addr::new(127, 9, 10, 1)));
    }
}
