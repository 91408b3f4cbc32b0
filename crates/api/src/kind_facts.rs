//! What an API says about a kind: names, scope, versions.

/// The API group of Gateway API.
pub const GROUP: &str = "gateway.networking.k8s.io";
/// The API group of Gateway API's experiments.
pub const EXPERIMENTAL_GROUP: &str = "gateway.networking.x-k8s.io";

/// One kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindFacts {
    /// `kind` as in manifests.
    pub kind: &'static str,
    /// The resource's name in paths.
    pub plural: &'static str,
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// Whether objects have no namespace.
    pub cluster_scoped: bool,
    /// Whether there is a status subresource.
    pub has_status: bool,
    /// Every version that has a schema in some channel, best first: older bundles serve those that newer ones do not.
    pub version_names: &'static [&'static str],
    /// The same with what each channel does with them.
    pub versions: &'static [VersionFacts],
}

/// One version of a kind: for each channel whether it is served; `None` where the channel does not have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionFacts {
    pub name: &'static str,
    pub standard: Option<bool>,
    pub experimental: Option<bool>,
}
