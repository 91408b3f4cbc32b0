//! The CRDs that Weir brings.
