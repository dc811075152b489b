//! The walls between rooms: which crate may use which, and that neither files of one crate nor rooms of the node import
//! each other in a circle.
//!
//! A circle is looked for between files. An item that is re-exported counts for the file that defines it, `mod`
//! declarations and tests do not count.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use syn::{Item, UseTree, visit::Visit};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// What a crate is built from, by `cargo tree`.
fn dependencies(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--package", package, "--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn no_room_is_built_from_a_higher_one_or_from_what_it_must_not_know() {
    let walls: [(&str, &[&str]); 4] = [
        ("protocol", &["peer", "engine", "node", "sim", "tokio", "libp2p", "candle-core", "redb", "rayon"]),
        ("peer", &["engine", "node", "sim", "tokio", "libp2p", "candle-core", "redb", "rayon", "tracing"]),
        ("engine", &["peer", "node", "sim", "tokio", "libp2p", "redb", "clap"]),
        ("sim", &["node", "libp2p", "redb"]),
    ];
    for (package, unknown) in walls {
        let built_from = dependencies(package);
        assert!(built_from.contains("protocol"), "{package} is built from {built_from:?}");
        for other in unknown {
            assert!(!built_from.contains(*other), "{package} must not know {other}");
        }
    }
}

/// One module: its file, its submodules, what it re-exports, and the paths that it mentions.
#[derive(Default)]
struct Module {
    file: PathBuf,
    children: BTreeSet<String>,
    exports: BTreeMap<String, Vec<String>>,
    paths: Vec<Vec<String>>,
}

/// All modules of a crate by their path.
type Modules = BTreeMap<Vec<String>, Module>;

struct Paths<'a>(&'a mut Vec<Vec<String>>);

impl Visit<'_> for Paths<'_> {
    fn visit_path(&mut self, path: &syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if segments.len() > 1 {
            self.0.push(segments);
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_item_mod(&mut self, module: &syn::ItemMod) {
        if !is_test(&module.attrs) {
            syn::visit::visit_item_mod(self, module);
        }
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Ident>().is_ok_and(|ident| ident == "test")
    })
}

/// (name here, path) of everything that a `use` names.
fn names(tree: &UseTree, before: &[String], found: &mut Vec<(String, Vec<String>)>) {
    let extended = |ident: &syn::Ident| [before, &[ident.to_string()]].concat();
    match tree {
        UseTree::Path(path) => names(&path.tree, &extended(&path.ident), found),
        UseTree::Name(name) if name.ident == "self" => {
            found.push((before.last().cloned().unwrap_or_default(), before.to_vec()))
        }
        UseTree::Name(name) => found.push((name.ident.to_string(), extended(&name.ident))),
        UseTree::Rename(name) => found.push((name.rename.to_string(), extended(&name.ident))),
        UseTree::Glob(_) => found.push(("*".into(), before.to_vec())),
        UseTree::Group(group) => group.items.iter().for_each(|tree| names(tree, before, found)),
    }
}

fn read(file: &Path, directory: &Path, path: Vec<String>, modules: &mut Modules) {
    let source = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let parsed = syn::parse_file(&source).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut module = Module { file: file.to_owned(), ..Module::default() };
    for item in &parsed.items {
        match item {
            Item::Mod(child) if child.content.is_none() && !is_test(&child.attrs) => {
                let name = child.ident.to_string();
                let (flat, nested) = (directory.join(format!("{name}.rs")), directory.join(&name));
                let child_file = if flat.is_file() { flat } else { nested.join("mod.rs") };
                read(&child_file, &nested, [&path[..], std::slice::from_ref(&name)].concat(), modules);
                module.children.insert(name);
            }
            Item::Use(item) => {
                let mut found = Vec::new();
                names(&item.tree, &[], &mut found);
                let is_private = matches!(item.vis, syn::Visibility::Inherited);
                for (name, path) in found {
                    if is_private { module.paths.push(path) } else { drop(module.exports.insert(name, path)) }
                }
            }
            item => Paths(&mut module.paths).visit_item(item),
        }
    }
    modules.insert(path, module);
}

/// The module that defines what `path` names when it is said in module `from`; None outside the crate.
fn resolve(modules: &Modules, from: &[String], path: &[String], depth: usize) -> Option<Vec<String>> {
    let first = path.first()?;
    let (mut at, rest) = match first.as_str() {
        "crate" => (Vec::new(), &path[1..]),
        "self" => (from.to_vec(), &path[1..]),
        "super" => (from.split_last()?.1.to_vec(), &path[1..]),
        name if modules[from].children.contains(name) => (from.to_vec(), path),
        _ => return None,
    };
    for (index, name) in rest.iter().enumerate() {
        if name == "super" {
            at.pop();
        } else if modules[&at].children.contains(name) {
            at.push(name.clone());
        } else if let Some(exported) = modules[&at].exports.get(name).filter(|_| depth < 8) {
            let exported = [&exported[..], &rest[index + 1..]].concat();
            return resolve(modules, &at, &exported, depth + 1);
        } else {
            break;
        }
    }
    Some(at)
}

/// Files that can be reached from `file` by one import or more.
fn reached<'a>(file: &Path, imports: &'a BTreeMap<PathBuf, BTreeSet<PathBuf>>) -> BTreeSet<&'a Path> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&Path> = imports.get(file).into_iter().flatten().map(PathBuf::as_path).collect();
    while let Some(next) = open.pop() {
        if reached.insert(next) {
            open.extend(imports.get(next).into_iter().flatten().map(PathBuf::as_path));
        }
    }
    reached
}

/// Groups of files that all reach each other.
fn circles(imports: &BTreeMap<PathBuf, BTreeSet<PathBuf>>) -> BTreeSet<Vec<&Path>> {
    let reached: BTreeMap<&Path, BTreeSet<&Path>> =
        imports.keys().map(|file| (file.as_path(), reached(file, imports))).collect();
    let group = |file: &Path| reached[file].iter().copied().filter(|other| reached[other].contains(file)).collect();
    imports.keys().map(|file| group(file)).filter(|group: &Vec<&Path>| group.len() > 1).collect()
}

fn imports(modules: &Modules) -> BTreeMap<PathBuf, BTreeSet<PathBuf>> {
    let mut imports: BTreeMap<PathBuf, BTreeSet<PathBuf>> = BTreeMap::new();
    for (path, module) in modules {
        let targets = module.paths.iter().filter_map(|named| resolve(modules, path, named, 0));
        let files = targets.map(|target| modules[&target].file.clone()).filter(|file| *file != module.file);
        imports.entry(module.file.clone()).or_default().extend(files);
    }
    imports
}

#[test]
fn no_files_of_a_crate_import_each_other_in_a_circle() {
    let mut circles = Vec::new();
    for source in ["protocol/src", "node/peer/src", "node/engine/src", "node/src", "sim/src"] {
        let directory = root().join(source);
        let mut modules = Modules::new();
        read(&directory.join("lib.rs"), &directory, Vec::new(), &mut modules);
        let imports = imports(&modules);
        assert!(imports.values().map(BTreeSet::len).sum::<usize>() > 10, "{source}: the imports were not found");
        for circle in self::circles(&imports) {
            let names = circle.iter().map(|file| file.strip_prefix(&directory).unwrap().display().to_string());
            circles.push(format!("{source}: {}", names.collect::<Vec<_>>().join(", ")));
        }
    }
    assert!(circles.is_empty(), "circles of imports:\n{}", circles.join("\n"));
}

/// The same imports, between the modules right below the crate's root.
fn rooms(modules: &Modules) -> BTreeMap<PathBuf, BTreeSet<PathBuf>> {
    let mut rooms: BTreeMap<PathBuf, BTreeSet<PathBuf>> = BTreeMap::new();
    for (path, module) in modules {
        let Some(room) = path.first() else { continue };
        let targets = module.paths.iter().filter_map(|named| resolve(modules, path, named, 0));
        let others = targets.filter_map(|target| target.first().cloned()).filter(|other| other != room);
        rooms.entry(PathBuf::from(room)).or_default().extend(others.map(PathBuf::from));
    }
    rooms
}

#[test]
fn no_rooms_of_the_node_import_each_other_in_a_circle() {
    let directory = root().join("node/src");
    let mut modules = Modules::new();
    read(&directory.join("lib.rs"), &directory, Vec::new(), &mut modules);
    let rooms = rooms(&modules);
    assert!(rooms.len() > 10, "the rooms were not found");
    let circles = circles(&rooms);
    assert!(circles.is_empty(), "circles of rooms: {circles:?}");
}

#[test]
fn a_circle_is_found_through_a_re_export_and_a_path_in_an_expression() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write("lib.rs", "mod a; mod b; mod c; pub use c::C;");
    write("a.rs", "use crate::{b::B, C};");
    write("b.rs", "pub struct B; #[cfg(test)] mod tests { use crate::a::A; }");
    write("c.rs", "pub struct C;");
    let found = || {
        let mut modules = Modules::new();
        read(&directory.path().join("lib.rs"), directory.path(), Vec::new(), &mut modules);
        circles(&imports(&modules)).first().map(Vec::len)
    };
    assert_eq!(found(), None);
    write("c.rs", "pub struct C; fn f() { super::a::f() }");
    assert_eq!(found(), Some(2));
    write("c.rs", "pub struct C; use crate::b::B;");
    write("b.rs", "pub struct B; fn f(x: crate::a::A) {}");
    assert!(found().is_some_and(|length| length >= 2));
}
