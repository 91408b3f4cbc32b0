//! Ranges of loopback addresses, and the claim by which two sandboxes on one machine keep apart.
//!
//! Invariant: a claim is a bound abstract Unix socket, so that it ends with the process, however it ends.

use std::net::Ipv4Addr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::str::FromStr;

use anyhow::{Context, Result, bail};

/// Addresses of an IPv4 network inside 127.0.0.0/8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddressRange {
    network: u32,
    prefix: u8,
}

impl AddressRange {
    /// Smaller ranges could not hold a few Gateways and their pods.
    const LONGEST_PREFIX: u8 = 24;

    /// First half: Gateways. Second half: pods.
    pub(crate) fn halves(self) -> (AddressRange, AddressRange) {
        let prefix = self.prefix + 1;
        let second = self.network | (1 << (32 - u32::from(prefix)));
        (AddressRange { network: self.network, prefix }, AddressRange { network: second, prefix })
    }

    /// The first and the last address that may be given out (not the network's first and last).
    pub(crate) fn usable(self) -> (Ipv4Addr, Ipv4Addr) {
        let size = 1_u32 << (32 - u32::from(self.prefix));
        (Ipv4Addr::from(self.network + 1), Ipv4Addr::from(self.network + size - 2))
    }
}

impl std::fmt::Display for AddressRange {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", Ipv4Addr::from(self.network), self.prefix)
    }
}

impl FromStr for AddressRange {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (address, prefix) = text.split_once('/').ok_or("expected ADDRESS/PREFIX, e.g. 127.90.0.0/16")?;
        let address: Ipv4Addr = address.parse().map_err(|_| format!("`{address}` is not an IPv4 address"))?;
        let prefix: u8 = prefix.parse().map_err(|_| format!("`{prefix}` is not a prefix length"))?;
        if !address.is_loopback() {
            return Err(format!(
                "{address} is not a loopback address: the range must lie inside 127.0.0.0/8"
            ));
        }
        if !(8..=Self::LONGEST_PREFIX).contains(&prefix) {
            return Err(format!(
                "the prefix length must be from 8 to {}, not {prefix}",
                Self::LONGEST_PREFIX
            ));
        }
        let network = u32::from(address);
        if network << prefix != 0 {
            let masked = Ipv4Addr::from(network & !(u32::MAX >> prefix));
            return Err(format!("{text} has bits set after its prefix: did you mean {masked}/{prefix}?"));
        }
        Ok(AddressRange { network, prefix })
    }
}

/// A range that no other sandbox of this machine uses while this value lives.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) range: AddressRange,
    /// Tells this sandbox's default files from those of others on the machine; empty for the first.
    pub(crate) suffix: String,
    _socket: UnixListener,
}

/// Default ranges: 127.77.0.0/16, 127.78.0.0/16, ...
const FIRST_DEFAULT_BLOCK: u32 = 77;
const DEFAULT_BLOCKS: u32 = 128;

impl Claim {
    /// Claims `wanted`, or the first free default range.
    pub(crate) fn take(wanted: Option<AddressRange>) -> Result<Claim> {
        let Some(range) = wanted else { return Self::take_default() };
        match claim_socket(range)? {
            Some(socket) => {
                let suffix = format!("-{}-{}", Ipv4Addr::from(range.network), range.prefix);
                Ok(Claim { range, suffix, _socket: socket })
            }
            None => {
                bail!("--address-range: {range} is in use by another sandbox on this machine; choose another")
            }
        }
    }

    fn take_default() -> Result<Claim> {
        for instance in 0..DEFAULT_BLOCKS {
            let network = u32::from(Ipv4Addr::new(127, 0, 0, 0)) | ((FIRST_DEFAULT_BLOCK + instance) << 16);
            let range = AddressRange { network, prefix: 16 };
            if let Some(socket) = claim_socket(range)? {
                let suffix = if instance == 0 { String::new() } else { format!("-{}", instance + 1) };
                return Ok(Claim { range, suffix, _socket: socket });
            }
        }
        bail!(
            "{DEFAULT_BLOCKS} sandboxes run on this machine already; give one a range of its own with --address-range"
        )
    }
}

/// `None` when another process holds it.
fn claim_socket(range: AddressRange) -> Result<Option<UnixListener>> {
    let name = format!("weir-sandbox-{range}");
    let address = SocketAddr::from_abstract_name(name).context("an abstract socket name")?;
    match UnixListener::bind_addr(&address) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(error).context("claiming an address range by an abstract Unix socket"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_parsed_and_halved() {
        let range: AddressRange = "127.90.0.0/16".parse().unwrap();
        let (gateways, pods) = range.halves();
        assert_eq!(gateways.to_string(), "127.90.0.0/17");
        assert_eq!(pods.to_string(), "127.90.128.0/17");
        assert_eq!(gateways.usable(), (Ipv4Addr::new(127, 90, 0, 1), Ipv4Addr::new(127, 90, 127, 254)));
    }

    #[test]
    fn a_bad_range_is_refused_with_a_reason() {
        let reason = |text: &str| text.parse::<AddressRange>().unwrap_err();
        assert!(reason("10.0.0.0/16").contains("loopback"));
        assert!(reason("127.0.0.0").contains("ADDRESS/PREFIX"));
        assert!(reason("127.0.0.0/30").contains("from 8 to 24"));
        assert!(reason("127.1.2.3/16").contains("127.1.0.0/16"));
    }

    #[test]
    fn two_claims_never_share_a_range() {
        let first = Claim::take(Some("127.250.1.0/24".parse().unwrap())).unwrap();
        assert!(Claim::take(Some(first.range)).unwrap_err().to_string().contains("in use"));
        let (a, b) = (Claim::take(None).unwrap(), Claim::take(None).unwrap());
        assert_ne!(a.range, b.range);
    }
}
