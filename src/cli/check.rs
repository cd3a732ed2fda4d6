//! `check`: every mistake that `serve` would meet, at once and before it is started.

use std::{ffi::OsString, io::Write};

use clap::{
    Command,
    builder::{OsStr, Resettable},
    error::{ContextKind, ContextValue},
};

#[cfg(feature = "etcd")]
use tokio::runtime;

use super::{is_answer, print, serve};
#[cfg(feature = "etcd")]
use crate::store::Etcd;
use crate::{config::Config, run::Listeners, store::Sqlite};

const NAME: &str = "check";

pub(super) fn command() -> Command {
    Command::new(NAME)
        .about("print all that would keep serve from working as it is told")
        .after_help(
            "It takes the flags and variables of serve, and reads secrets, web configurations and \
             certificates as serve would. It opens the ports and the storage for a moment, so \
             beside an exporter that runs it finds them in use.\n\n\
             Example:\n  whatsapp-quality-exporter check --meta.app-secret-file=meta.secret\n\n\
             The exit status is 0 without a finding, 1 with findings, 2 where the arguments are no \
             flags.",
        )
        .args(serve::flags())
}

/// Reads the flags and the variables; those that cannot be taken become findings and are left out.
pub(super) fn read(
    root: fn() -> Command,
    mut arguments: Vec<OsString>,
) -> Result<(Config, Vec<String>), clap::Error> {
    let mut left_out: Vec<String> = Vec::new();
    let mut findings = Vec::new();
    let mut verb = command();
    loop {
        let root = root().subcommand(verb.clone());
        let error = match root.try_get_matches_from(&arguments) {
            Ok(matches) => {
                let matches = matches.subcommand_matches(NAME).unwrap_or(&matches);
                return Ok((serve::config(matches), findings));
            }
            Err(error) => error,
        };
        let flag = flag_of(&error).filter(|flag| !left_out.contains(flag));
        let Some(flag) = flag.filter(|_| !is_answer(&error)) else {
            return Err(error);
        };
        findings.push(sentence(&error));
        let known = verb
            .get_arguments()
            .find(|arg| arg.get_id() == flag.as_str());
        let takes_value = known.is_some_and(|arg| arg.get_action().takes_values());
        leave_out(&mut arguments, &flag, takes_value);
        if known.is_some() {
            verb = verb.mut_arg(&flag, |arg| arg.env(Resettable::<OsStr>::Reset));
        }
        left_out.push(flag);
    }
}

/// The flag that an error is about, without its dashes.
fn flag_of(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let name = shown.strip_prefix("--")?;
    Some(name.split([' ', '=']).next().unwrap_or(name).to_owned())
}

/// The first line of an error, which says all but how to get help.
fn sentence(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}

/// Takes a flag and its value away from the arguments.
fn leave_out(arguments: &mut Vec<OsString>, flag: &str, takes_value: bool) {
    let alone = format!("--{flag}");
    let with_value = format!("--{flag}=");
    let mut is_value = false;
    arguments.retain(|argument| {
        let text = argument.to_string_lossy();
        let is_flag = text == alone;
        let is_left_out = is_value || is_flag || text.starts_with(&with_value);
        is_value = is_flag && takes_value && !is_value;
        !is_left_out
    });
}

/// Prints every finding, a line each.
pub(super) fn run(
    config: &Config,
    of_flags: &[String],
    output: &mut dyn Write,
) -> Result<(), String> {
    let mut findings = of_flags.to_vec();
    let (of_files, notes) = config.findings();
    findings.extend(of_files);
    findings.extend(Listeners::findings(config));
    findings.extend(storage_finding(config));
    for line in findings.iter().chain(&notes) {
        print(output, &format!("{line}\n"))?;
    }
    match findings.len() {
        0 => print(output, "nothing keeps serve from working as it is told\n"),
        1 => Err("1 finding".into()),
        count => Err(format!("{count} findings")),
    }
}

fn storage_finding(config: &Config) -> Option<String> {
    #[cfg(feature = "etcd")]
    if let Some(options) = config.etcd.clone() {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let checked = match runtime {
            Ok(runtime) => runtime.block_on(Etcd::check(options)),
            Err(error) => return Some(error.to_string()),
        };
        return checked.err().map(|error| error.to_string());
    }
    let checked = Sqlite::check_folder(&config.storage_path);
    checked.err().map(|error| error.to_string())
}
