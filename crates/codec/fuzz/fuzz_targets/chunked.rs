#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_codec::body::Framing;

#[allow(dead_code)]
#[path = "../../tests/it/oracle.rs"]
mod oracle;

fuzz_target!(|bytes: &[u8]| {
    let _ = oracle::body(Framing::Chunked, bytes);
});
