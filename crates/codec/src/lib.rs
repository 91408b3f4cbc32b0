//! HTTP/1 without I/O: heads, framing, header rewriting.
