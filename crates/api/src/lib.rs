//! Typed Kubernetes and Gateway API objects that Weir reads or serves.
