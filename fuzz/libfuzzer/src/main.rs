//! The fuzz targets of `vda-fuzz`, guided by coverage. `VDA_FUZZ_TARGET` names the target; the arguments are libFuzzer's.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    static RUN: OnceLock<fn(&[u8])> = OnceLock::new();
    let run = RUN.get_or_init(|| {
        let name = std::env::var("VDA_FUZZ_TARGET").expect("VDA_FUZZ_TARGET names the target");
        vda_fuzz::target(&name).run
    });
    run(input);
});
