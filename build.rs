//! Tells the binary what it was built from.

use std::{env, path::Path, process::Command};

fn main() {
    println!(
        "cargo::rustc-env=BUILD_REVISION={}",
        revision().unwrap_or_else(|| "unknown".into())
    );
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let version = printed(Command::new(rustc).arg("--version"));
    let version = version
        .as_deref()
        .and_then(|text| text.split(' ').nth(1))
        .unwrap_or("unknown");
    println!("cargo::rustc-env=BUILD_RUSTC={version}");
    println!("cargo::rerun-if-env-changed=BUILD_REVISION");
    for file in [".git/HEAD", ".git/logs/HEAD"] {
        if Path::new(file).exists() {
            println!("cargo::rerun-if-changed={file}");
        }
    }
    println!("cargo::rerun-if-changed=build.rs");
    let target = ["OS", "ENV"].map(|name| env::var(format!("CARGO_CFG_TARGET_{name}")));
    if target.map(Result::unwrap_or_default) == ["linux", "gnu"] {
        // The dynamic linker reads a third of a megabyte less, which an empty process else keeps.
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The commit; packagers who build without a repository set `BUILD_REVISION`.
fn revision() -> Option<String> {
    let given = env::var("BUILD_REVISION")
        .ok()
        .filter(|revision| !revision.is_empty());
    given.or_else(|| printed(Command::new("git").args(["rev-parse", "--short=12", "HEAD"])))
}

fn printed(command: &mut Command) -> Option<String> {
    let output = command
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
