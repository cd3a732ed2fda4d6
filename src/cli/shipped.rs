//! Files that the program carries, written into a folder for the programs that read them.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgMatches, Command, value_parser};

use super::{given, option, print};

/// Where the runbook stands in the files as they are shipped.
const RUNBOOK: &str = "https://example.com/whatsapp-quality-exporter/docs/runbook.md";
const RUNBOOK_URL: &str = "runbook-url";

pub(super) fn command(
    name: &'static str,
    about: &'static str,
    after_help: &'static str,
) -> Command {
    Command::new(name)
        .about(about)
        .after_help(after_help)
        .arg(
            Arg::new("FOLDER")
                .help("the folder, which is made where there is none; files of these names in it are replaced")
                .default_value(".")
                .value_parser(value_parser!(PathBuf)),
        )
        .arg(option(
            RUNBOOK_URL,
            "URL",
            "the address under which you keep docs/runbook.md",
        ))
}

/// Writes the files, and prints their paths.
pub(super) fn write(
    files: &[(&str, &str)],
    matches: &ArgMatches,
    output: &mut dyn Write,
) -> Result<(), String> {
    let folder = given::<PathBuf>(matches, "FOLDER").map_or(Path::new("."), PathBuf::as_path);
    let cannot = |path: &Path, error| format!("cannot write {}: {error}", path.display());
    fs::create_dir_all(folder).map_err(|error| cannot(folder, error))?;
    for (name, content) in files {
        let path = folder.join(name);
        let content = match given::<String>(matches, RUNBOOK_URL) {
            Some(url) => content.replace(RUNBOOK, url),
            None => (*content).to_owned(),
        };
        fs::write(&path, content).map_err(|error| cannot(&path, error))?;
        print(output, &format!("{}\n", path.display()))?;
    }
    Ok(())
}
