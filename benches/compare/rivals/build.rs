//! Makes the types of Cyclone DDS and builds its shim, if that is wanted.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "cyclone")]
    cyclone();
}

#[cfg(feature = "cyclone")]
fn cyclone() {
    use std::env;
    use std::process::Command;

    let out = env::var("OUT_DIR").expect("cargo sets it");
    let here = env::current_dir().expect("cargo sets it").join("src");
    for file in ["shim.c", "leaf.idl"] {
        println!("cargo:rerun-if-changed=src/{file}");
    }
    let leaf = here.join("leaf.idl");
    let status = Command::new("idlc").args(["-l", "c"]).arg(leaf).current_dir(&out).status();
    let status = status.expect("idlc of Cyclone DDS is needed");
    assert!(status.success(), "idlc failed");
    let version = Command::new("idlc").arg("-v").output().expect("idlc has a version");
    println!("cargo:rustc-env=CYCLONE_VERSION={}", String::from_utf8_lossy(&version.stdout).trim());
    let leaf = format!("{out}/leaf.c");
    cc::Build::new()
        .file(here.join("shim.c"))
        .file(leaf)
        .include(&out)
        .warnings(false)
        .compile("shim");
    println!("cargo:rustc-link-lib=ddsc");
}
