use std::path::PathBuf;

use clap::Args;

use super::common::Common;
use super::recipe::RecipeArgs;
use crate::config::Config;
use crate::error::Result;

/// Show a recipe with the resolved value of every key, or the JSON schema of recipes
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["config", "schema"]))]
pub struct ConfigArgs {
    /// Recipe; configs/ has examples
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Print the JSON schema of recipes, for editors and other programs
    #[arg(long)]
    schema: bool,
}

impl ConfigArgs {
    /// Whether a recipe is shown, on which the common flags act.
    pub fn reads_recipe(&self) -> bool {
        self.config.is_some()
    }
}

pub fn run(args: &ConfigArgs, common: &Common) -> Result<()> {
    let console = common.console();
    if !args.reads_recipe() && args.recipe.is_given() {
        return Err(args.recipe.without_recipe());
    }
    match &args.config {
        Some(path) => {
            let config = args.recipe.recipe(path, common)?;
            let text = config.to_toml()?;
            console.result(&config, || text.trim_end().to_owned())
        }
        None => console.print(&format!("{:#}\n", Config::schema())),
    }
}
