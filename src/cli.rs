//! The command line: each verb is a file, and what is typed becomes an [`Invocation`].
//!
//! `serve` is also what happens without a verb. Its flags have environment variables, of which the
//! other verbs read only their own: a variable that the server cannot take must not keep
//! `healthcheck` from answering.

mod check;
mod client;
mod completions;
mod dashboards;
mod export;
mod healthcheck;
mod import;
mod man;
mod numbers;
mod progress;
mod rules;
mod send;
mod serve;
mod shipped;
#[cfg(feature = "etcd")]
mod storage;

use std::{ffi::OsString, io::Write};

use clap::{Arg, ArgAction, ArgMatches, Command, error::ErrorKind};

use crate::config::Config;

/// What the program is to do.
#[derive(Debug)]
pub enum Invocation {
    /// Receive webhooks and expose metrics.
    Serve(Box<Config>),
    /// Something that ends by itself.
    Verb(Verb, ArgMatches),
    /// Look for mistakes in what `serve` would be told, of which these are in the flags.
    Check(Box<Config>, Vec<String>),
}

/// A verb that ends by itself.
#[derive(Clone, Copy, Debug)]
pub struct Verb {
    command: fn() -> Command,
    run: fn(&ArgMatches, &mut dyn Write) -> Result<(), String>,
}

/// The verbs besides `serve` and `check`, which share their flags.
const VERBS: &[Verb] = &[
    send::VERB,
    import::VERB,
    export::VERB,
    #[cfg(feature = "etcd")]
    storage::VERB,
    rules::VERB,
    dashboards::VERB,
    healthcheck::VERB,
    completions::VERB,
    man::VERB,
];

impl Invocation {
    /// Does it, where it is something that ends by itself, and writes what it prints.
    ///
    /// # Errors
    ///
    /// The sentence that says what failed.
    pub fn run(&self, output: &mut dyn Write) -> Result<(), String> {
        match self {
            Self::Serve(_) => Ok(()),
            Self::Verb(verb, matches) => (verb.run)(matches, output),
            Self::Check(config, findings) => check::run(config, findings, output),
        }
    }
}

/// Reads arguments (the program's name first) and the environment. No file is read, and no secret.
///
/// # Errors
///
/// An unknown flag or an invalid value. Also returned for `--help` and `--version`; [`is_answer`]
/// tells them apart.
pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let verb = arguments.get(1).and_then(|argument| argument.to_str());
    match verb {
        Some("serve") => {
            let matches = root().subcommand(serve::command());
            let matches = matches.try_get_matches_from(arguments)?;
            let matches = matches.subcommand_matches("serve").unwrap_or(&matches);
            Ok(Invocation::Serve(serve::config(matches).into()))
        }
        Some("check") => {
            let (config, findings) = check::read(root, arguments)?;
            Ok(Invocation::Check(config.into(), findings))
        }
        Some(name) if verb_of(name).is_some() || name == "help" => {
            let matches = verbs(root()).try_get_matches_from(arguments)?;
            match matches
                .subcommand()
                .and_then(|(name, given)| Some((verb_of(name)?, given)))
            {
                Some((verb, given)) => Ok(Invocation::Verb(verb, given.clone())),
                None => Ok(Invocation::Serve(serve::config(&matches).into())),
            }
        }
        _ => {
            let matches = command().try_get_matches_from(arguments)?;
            Ok(Invocation::Serve(serve::config(&matches).into()))
        }
    }
}

fn verb_of(name: &str) -> Option<Verb> {
    VERBS
        .iter()
        .copied()
        .find(|verb| (verb.command)().get_name() == name)
}

/// Whether this is no error but the help or the version that was asked for.
pub fn is_answer(error: &clap::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    )
}

/// The command line, for `--help` and for the documentation.
pub fn command() -> Command {
    verbs(root().after_help(serve::ENVIRONMENT).args(serve::flags()))
}

fn verbs(root: Command) -> Command {
    let verbs = VERBS.iter().map(|verb| (verb.command)());
    root.subcommand(serve::command())
        .subcommand(check::command())
        .subcommands(verbs)
}

/// The program without its verbs and without the flags of `serve`.
fn root() -> Command {
    let version = concat!(
        env!("CARGO_PKG_VERSION"),
        " (revision ",
        env!("BUILD_REVISION"),
        ", rustc ",
        env!("BUILD_RUSTC"),
        ")"
    );
    let help = Arg::new("help")
        .long("help")
        .short('h')
        .global(true)
        .action(ArgAction::HelpShort);
    let print_version = Arg::new("version")
        .long("version")
        .short('V')
        .action(ArgAction::Version);
    Command::new(env!("CARGO_PKG_NAME"))
        .about(
            "Receives WhatsApp's quality and messaging limit webhooks and exposes them to \
             Prometheus.",
        )
        .version(env!("CARGO_PKG_VERSION"))
        .long_version(version)
        .disable_version_flag(true)
        .arg(print_version.help("print the version"))
        .disable_help_flag(true)
        .arg(help.help("print this help"))
}

/// An option of a verb that is not of `serve`.
fn option(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

/// A value of an option that has a parser or none.
fn given<'a, T: Clone + Send + Sync + 'static>(
    matches: &'a ArgMatches,
    name: &str,
) -> Option<&'a T> {
    matches.get_one(name)
}

/// Writes what a verb prints.
fn print(output: &mut dyn Write, text: &str) -> Result<(), String> {
    let written = output.write_all(text.as_bytes());
    written.map_err(|error| format!("cannot write to standard output: {error}"))
}
