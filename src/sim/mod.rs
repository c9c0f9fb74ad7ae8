//! A simulated world: the real protocol and real trees over a simulated clock and
//! network, in one thread, from one seed.
//!
//! [`Options::draw`] draws from a seed what the world is made of and what goes wrong
//! in it; [`run`] lets it go, in turns of trouble and of quiet, and looks at
//! everything that is stored, sent and said. The same seed gives the same run, byte
//! for byte: there is no clock, no chance and no thread but the world's own. What a
//! run found is told as [`Outcome`]; a promise that was broken comes with what
//! travelled last.
//!
//! The trees are files, of the code that the product runs: a kill is a drop, and a
//! restart opens the file again, after a power loss an image of it. What a disk may hold
//! under `--durability power` is a matter of its own: [`draw_images`] draws it.

mod audience;
#[cfg(test)]
mod bent;
#[cfg(test)]
mod canaries;
mod checks;
mod faults;
mod follow;
mod forgery;
mod hearing;
mod images;
mod images_check;
mod images_disk;
mod images_growth;
mod images_history;
mod images_slots;
mod images_watch;
mod leaves;
mod network;
mod node;
mod options;
mod outcome;
mod places;
mod planted;
mod random;
mod report;
mod serve;
mod storage;
mod table;
mod trace;
mod witness;
mod world;

pub use checks::Broken;
pub use checks::Counted;
pub use images::BadImage;
pub use images::IMAGES_OF_HISTORY;
pub use images::ImageBug;
pub use images::ImageOptions;
pub use images::ImageReport;
pub use images::draw_images;
pub use options::Faults;
pub use options::Fixed;
pub use options::Options;
pub use outcome::Failure;
pub use outcome::Hour;
pub use outcome::Outcome;
pub use outcome::run;
pub use table::Row;
pub use table::loss_table;
