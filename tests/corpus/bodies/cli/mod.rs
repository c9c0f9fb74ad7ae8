//! What people write for the commands: settings, and reports as JSON Lines.
//!
//! The readers belong to the binary and not to the library; they are built in here as
//! they are.

#[allow(dead_code)]
#[path = "../../../../src/cli/config.rs"]
mod config_file;
#[allow(dead_code)]
#[path = "../../../../src/cli/lines.rs"]
mod json_lines;
#[allow(dead_code)]
#[path = "../../../../src/cli/parse.rs"]
mod parse;

use std::path::PathBuf;
use std::sync::OnceLock;

use clap::Arg;
use clap::ArgAction;
use clap::Command;
use clap::value_parser;

use mapleaf::layout::limits::CAPACITY_MAX;
use mapleaf::layout::limits::DATAGRAM_SIZE_MAX;
use mapleaf::layout::limits::DATAGRAM_SIZE_MIN;
use mapleaf::tree::Layout;

use json_lines::Lines;

/// A command with an option of each kind that ours have.
fn tool() -> &'static Command {
    static TOOL: OnceLock<Command> = OnceLock::new();
    TOOL.get_or_init(|| {
        let with = |name: &'static str| Arg::new(name).long(name);
        let serve = Command::new("serve").args([
            with("listen").required(true).value_parser(|text: &str| text.parse::<parse::Address>()),
            with("period").value_parser(parse::duration),
            with("lease").value_parser(parse::positive_duration),
            with("datagram").value_parser(parse::datagram_size),
            with("ring").value_parser(parse::size_u32),
            with("loss").value_parser(parse::loss),
            with("sessions").value_parser(value_parser!(u32)),
            with("busy-poll").action(ArgAction::SetTrue),
            with("allow").action(ArgAction::Append),
        ]);
        let config = with("config").global(true).value_parser(value_parser!(PathBuf));
        let log = with("log").global(true);
        Command::new("tool").args([log, config]).subcommand(serve).subcommand(Command::new("top"))
    })
}

/// The input is the text of a settings file: an error of one line, or settings that
/// their options take.
pub(super) fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let settings = match config_file::read(tool(), &text) {
        Ok(settings) => settings,
        Err(error) => return one_line(&format!("{error:#}")),
    };
    for setting in settings {
        assert!(setting.key != "config", "a file names no other file");
        let taken = |wanted: &dyn Fn(&str) -> bool| {
            assert!(setting.values.iter().all(|value| wanted(value)), "{setting:?}");
        };
        match setting.key.as_str() {
            "period" => taken(&|value| parse::duration(value).is_ok()),
            "lease" => taken(&|value| parse::duration(value).is_ok_and(|time| !time.is_zero())),
            "datagram" => taken(&|value| {
                let size = parse::size(value).expect("it was taken");
                (DATAGRAM_SIZE_MIN as u64..=DATAGRAM_SIZE_MAX as u64).contains(&size)
            }),
            "ring" => taken(&|value| parse::size_u32(value).is_ok()),
            "loss" => {
                taken(&|value| parse::loss(value).is_ok_and(|loss| (0.0..=0.5).contains(&loss)))
            }
            "listen" => taken(&|value| {
                let address: parse::Address = value.parse().expect("it was taken");
                address.to_string().parse() == Ok(address)
            }),
            "sessions" => taken(&|value| value.parse::<u32>().is_ok()),
            "busy-poll" => taken(&|value| value == "true" || value == "false"),
            _ => {}
        }
    }
}

fn layout() -> &'static Layout {
    static LAYOUT: OnceLock<Layout> = OnceLock::new();
    LAYOUT.get_or_init(|| {
        Layout::from_toml(
            "[[parent]]\nname='a'\nleaves=3\n[[parent.field]]\nname='t'\ntype='i16'\n\
             [[parent.field]]\nname='m'\ntype='bytes'\nsize=2\n[[parent.field]]\nname='x'\n\
             type='text'\nsize=5\n[[parent.field]]\nname='f'\ntype='f32'\n\
             [[parent]]\nname='b'\nin='/a'\nleaves=2\ncapacity=9\n",
        )
        .expect("a schema")
    })
}

/// The input is lines of JSON: each an error of one line, or Data that its leaf takes.
pub(super) fn lines(bytes: &[u8]) {
    let mut input = bytes;
    let (mut lines, mut line) = (Lines::default(), Vec::new());
    while json_lines::read_line(&mut input, &mut line).expect("memory does not fail") {
        match lines.read(&line, layout()) {
            Ok((leaf, data)) => {
                let capacity = layout().capacity_of(leaf).expect("a leaf of the tree");
                assert!(data.len() <= capacity as usize);
                assert_eq!(parse::hex(&parse::to_hex(&data)), Ok(data));
            }
            Err(error) => one_line(&format!("{error:#}")),
        }
    }
    // The same text as one argument, and as hex.
    let text = String::from_utf8_lossy(bytes);
    if let Ok((name, _)) =
        json_lines::assigned(layout().fields_of(mapleaf::layout::DataLocId(0)), &text)
    {
        assert!(text.starts_with(name));
    }
    if let Ok(bytes) = parse::hex(&text) {
        assert!(bytes.len() <= text.len() && bytes.len() <= CAPACITY_MAX.max(text.len()));
    }
}

fn one_line(message: &str) {
    assert!(!message.is_empty() && !message.contains('\n'), "one line: {message:?}");
}
