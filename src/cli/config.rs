//! The TOML file of settings: what neither a flag nor a variable says.
//!
//! One table a command, its keys the names of the command's options. A value of
//! the file becomes the default of its option: flags come first, then MAPLEAF_*
//! variables, then the file, then what the program would choose.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::anyhow;
use anyhow::bail;
use clap::Arg;
use clap::ArgAction;
use clap::Command;
use toml::Table;
use toml::Value;

/// Options that a file cannot set.
const OUTSIDE: [&str; 3] = ["config", "help", "version"];

/// The settings file that a command line or a variable names.
pub(crate) fn path_of(command: &Command, args: &[OsString]) -> Option<PathBuf> {
    // Only the one option is looked for: what is wrong with the others is said
    // when they are read.
    let lenient = command.clone().ignore_errors(true);
    let matches = lenient.try_get_matches_from(args).ok()?;
    matches.get_one::<PathBuf>("config").cloned()
}

/// The command with the values of a settings file as defaults.
///
/// # Errors
///
/// A file that cannot be read or is no TOML, a table that is no command, a key
/// that is no option of its command, or a value that its option does not take.
pub(crate) fn apply(command: Command, path: &Path) -> anyhow::Result<Command> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    from_text(command, &text).with_context(|| path.display().to_string())
}

fn from_text(command: Command, text: &str) -> anyhow::Result<Command> {
    let settings = read(&command, text)?;
    let set = |command, setting: Setting| {
        with_default(command, &setting.command, &setting.key, setting.values)
    };
    Ok(settings.into_iter().fold(command, set))
}

/// One line of a settings file, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The command's name.
    pub(crate) command: String,
    /// Its option.
    pub(crate) key: String,
    /// What the option reads, as text.
    pub(crate) values: Vec<String>,
}

/// What a settings file says to a command.
///
/// # Errors
///
/// No TOML, a table that is no command, a key that is no option of its command, or a
/// value that its option does not take.
pub(crate) fn read(command: &Command, text: &str) -> anyhow::Result<Vec<Setting>> {
    let file: Table = text.parse().map_err(|error| anyhow!(one_line(&error, text)))?;
    let mut settings = Vec::new();
    for (name, value) in &file {
        let Value::Table(table) = value else {
            bail!("{name:?}: wanted a table such as [serve], found {}", value.type_str());
        };
        for (key, value) in table {
            let values =
                set(command, name, key, value).with_context(|| format!("[{name}] {key}"))?;
            settings.push(Setting { command: name.clone(), key: key.clone(), values });
        }
        if command.find_subcommand(name).is_none() {
            bail!("[{name}]: no such command; wanted one of {}", commands(command));
        }
    }
    Ok(settings)
}

fn one_line(error: &toml::de::Error, text: &str) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    format!("line {line}: {}", error.message().replace('\n', ", "))
}

fn commands(command: &Command) -> String {
    let names: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
    names.join(", ")
}

/// The option of a command, its own or one that all commands have.
fn option<'a>(command: &'a Command, name: &str, key: &str) -> Option<&'a Arg> {
    let own = command.find_subcommand(name)?.get_arguments();
    own.chain(command.get_arguments())
        .find(|arg| arg.get_long() == Some(key) && !OUTSIDE.contains(&key))
}

/// The value of a key as the option would read it on the command line.
fn set(command: &Command, name: &str, key: &str, value: &Value) -> anyhow::Result<Vec<String>> {
    let Some(table) = command.find_subcommand(name) else {
        bail!("no such command; wanted one of {}", commands(command));
    };
    let Some(arg) = option(command, name, key) else {
        let own = table.get_arguments().filter_map(Arg::get_long);
        let names: Vec<&str> = own.filter(|long| !OUTSIDE.contains(long)).collect();
        bail!("unknown key; wanted one of {}", names.join(", "));
    };
    let values = match (arg.get_action(), value) {
        (ArgAction::SetTrue, Value::Boolean(value)) => return Ok(vec![value.to_string()]),
        (ArgAction::SetTrue, _) => bail!("wanted true or false, found {}", value.type_str()),
        (ArgAction::Append, Value::Array(values)) => {
            values.iter().map(scalar).collect::<anyhow::Result<Vec<_>>>()?
        }
        _ => vec![scalar(value)?],
    };
    values.iter().try_for_each(|value| check(arg, key, value))?;
    Ok(values)
}

fn scalar(value: &Value) -> anyhow::Result<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        _ => bail!("wanted a text or a number, found {}", value.type_str()),
    }
}

/// Lets the option's own parser look at a value, so that a bad one is blamed on
/// the file.
fn check(arg: &Arg, key: &str, value: &str) -> anyhow::Result<()> {
    let alone = Arg::new("value").long("value").value_parser(arg.get_value_parser().clone());
    let probe = Command::new("probe").arg(alone.allow_hyphen_values(true));
    match probe.try_get_matches_from(["probe", &format!("--value={value}")]) {
        Ok(_) => Ok(()),
        Err(error) => {
            let source = core::error::Error::source(&error).map(ToString::to_string);
            bail!("{}, found {value:?}", source.unwrap_or_else(|| format!("wanted a {key}")))
        }
    }
}

fn with_default(command: Command, name: &str, key: &str, values: Vec<String>) -> Command {
    // clap keeps defaults as static text; these live as long as the process.
    let values: Vec<&'static str> =
        values.into_iter().map(|value| &*Box::leak(value.into_boxed_str())).collect();
    let Some(id) = option(&command, name, key).map(|arg| arg.get_id().as_str().to_owned()) else {
        return command;
    };
    let own = command
        .find_subcommand(name)
        .is_some_and(|table| table.get_arguments().any(|arg| arg.get_id() == id.as_str()));
    let change = |arg: Arg| arg.required(false).default_values(values);
    match own {
        true => command.mut_subcommand(name, |table| table.mut_arg(&id, change)),
        false => command.mut_arg(&id, change),
    }
}

#[cfg(test)]
mod tests {
    use clap::value_parser;

    use super::*;

    fn tool() -> Command {
        let listen = Arg::new("listen").long("listen").required(true).env("MAPLEAF_TEST_LISTEN");
        let count = Arg::new("count").long("count").value_parser(value_parser!(u32));
        let busy = Arg::new("busy_poll").long("busy-poll").action(ArgAction::SetTrue);
        let allow = Arg::new("allow").long("allow").action(ArgAction::Append);
        let log = Arg::new("log").long("log").global(true);
        let config =
            Arg::new("config").long("config").global(true).value_parser(value_parser!(PathBuf));
        let serve = Command::new("serve").args([listen, count, busy, allow]);
        Command::new("tool").args([log, config]).subcommand(serve)
    }

    fn refusal(text: &str) -> String {
        format!("{:#}", from_text(tool(), text).unwrap_err())
    }

    #[test]
    fn the_file_is_found_wherever_it_is_named() {
        let path = |args: &[&str]| {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            path_of(&tool(), &args)
        };
        assert_eq!(path(&["tool", "--config", "a", "serve"]), Some(PathBuf::from("a")));
        assert_eq!(path(&["tool", "serve", "--config=b"]), Some(PathBuf::from("b")));
        assert_eq!(path(&["tool", "serve", "--wrong"]), None);
    }

    #[test]
    fn flags_come_before_the_file() {
        let text = "[serve]\nlisten = \"file\"\ncount = 3\nbusy-poll = true\n\
                    allow = [\"a\", \"b\"]\nlog = \"debug\"\n";
        let tool = from_text(tool(), text).unwrap();
        let read = |args: &[&str]| tool.clone().try_get_matches_from(args).unwrap();
        let matches = read(&["tool", "serve"]);
        let serve = matches.subcommand_matches("serve").unwrap();
        assert_eq!(serve.get_one::<String>("listen").unwrap(), "file");
        assert_eq!(serve.get_one::<u32>("count"), Some(&3));
        assert!(serve.get_flag("busy_poll"));
        assert_eq!(serve.get_many::<String>("allow").unwrap().count(), 2);
        assert_eq!(matches.get_one::<String>("log").unwrap(), "debug");
        let matches = read(&["tool", "serve", "--listen", "flag", "--count=9", "--allow", "c"]);
        let serve = matches.subcommand_matches("serve").unwrap();
        assert_eq!(serve.get_one::<String>("listen").unwrap(), "flag");
        assert_eq!(serve.get_one::<u32>("count"), Some(&9));
        assert_eq!(serve.get_many::<String>("allow").unwrap().count(), 1);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert_eq!(
            refusal("[serve]\ncuont = 3\n"),
            "[serve] cuont: unknown key; wanted one of listen, count, busy-poll, allow"
        );
        assert!(refusal("[sevre]\ncount = 3\n").contains("no such command"));
        assert!(refusal("[sevre]\n").contains("no such command"));
        assert!(refusal("count = 3\n").contains("wanted a table"));
        assert!(refusal("[serve]\ncount = \"x\"\n").starts_with("[serve] count: "));
        assert!(refusal("[serve]\nbusy-poll = 1\n").contains("wanted true or false"));
        assert!(refusal("[serve]\nconfig = \"x\"\n").contains("unknown key"));
        assert!(refusal("[serve]\n\ncount = \n").starts_with("line 3: "));
        assert!(!refusal("[serve]\ncount = = =\n").contains('\n'));
    }
}
