# Oracle of tests/test_replicates.py: crossed random effects of seeds and items by lme4, and by refitting.
# Run with: Rscript tests/oracles/r/replicates.R > tests/oracles/r/replicates.json
# Debian: r-cran-lme4, r-cran-lmertest, r-cran-jsonlite.
suppressMessages({library(lme4); library(lmerTest); library(jsonlite)})
options(digits = 17)

make <- function(seed, sizes, seeds, sd_seed, sd_group, sd_item, sd_both, sd_rest) {
  set.seed(seed)
  group <- rep(seq_along(sizes), sizes)
  item <- seq_along(group)
  of_seed <- rnorm(seeds, 0, sd_seed)
  of_group <- rnorm(length(sizes), 0, sd_group)
  of_item <- rnorm(length(item), 0, sd_item)
  both <- matrix(rnorm(length(sizes) * seeds, 0, sd_both), length(sizes))
  table <- expand.grid(item = item, seed = seq_len(seeds))
  table$group <- group[table$item]
  table$d <- 0.3 + of_seed[table$seed] + of_group[table$group] + of_item[table$item] +
    both[cbind(table$group, table$seed)] + rnorm(nrow(table), 0, sd_rest)
  table
}

# What the mixed model says of the mean: fitted by REML to a tight tolerance.
reml <- function(formula, table) {
  control <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-12, maxfun = 1e5))
  fit <- lmerTest::lmer(formula, table, REML = TRUE, control = control)
  summary <- coef(summary(fit))
  list(
    estimate = summary[1, "Estimate"], error = summary[1, "Std. Error"], satterthwaite_df = summary[1, "df"],
    components = as.list(setNames(as.data.frame(VarCorr(fit))$sdcor, as.data.frame(VarCorr(fit))$grp)),
    singular = isSingular(fit)
  )
}

# Jackknife variance of a mean over items: leave out one group at a time and fit the mean again.
jackknife <- function(values, group) {
  names <- unique(group)
  left <- sapply(names, function(one) coef(lm(v ~ 1, data.frame(v = values[group != one])))[[1]])
  (length(names) - 1) / length(names) * sum((left - mean(values))^2)
}

refitted <- function(table) {
  wide <- sapply(sort(unique(table$seed)), function(s) {
    part <- table[table$seed == s, ]
    part$d[order(part$item)]
  })
  group <- table$group[table$seed == 1][order(table$item[table$seed == 1])]
  seeds <- ncol(wide)
  rest <- sapply(seq_len(seeds), function(s) jackknife(wide[, s] - rowMeans(wide), group))
  list(
    mean = mean(wide), by_seed = var(colMeans(wide)) / seeds, by_group = jackknife(rowMeans(wide), group),
    residual = sum(rest) / (seeds * (seeds - 1))
  )
}

# Interval and p-values of the weighted Student quantile, the p-values by searching.
weighted <- function(v, seeds, groups, margin) {
  error <- sqrt(max(v$by_seed, v$residual) + max(v$by_group, v$residual) - v$residual)
  q <- function(tail) {
    (v$by_seed * qt(tail, seeds - 1, lower.tail = FALSE) + v$by_group * qt(tail, groups - 1, lower.tail = FALSE)) /
      (v$by_seed + v$by_group)
  }
  area <- function(x) uniroot(function(p) q(p) - x, c(1e-15, 1 - 1e-15), tol = 1e-15)$root
  list(
    error = error, ci_low = v$mean - q(0.025) * error, ci_high = v$mean + q(0.025) * error,
    p = 2 * area(abs(v$mean) / error), p_equivalence = area((margin - abs(v$mean)) / error)
  )
}

single <- make(1, rep(1, 12), 3, 0.5, 0, 0.8, 0, 0.6)
nested <- make(2, rep(4, 6), 3, 0.4, 0.5, 0.5, 0.3, 0.6)
# Seeds that differ less than the items make them differ.
vanishing <- make(10, rep(1, 12), 3, 0, 0, 0.8, 0, 0.8)
unequal <- make(4, c(1, 2, 2, 3, 5, 8, 9), 4, 0.4, 0.5, 0.5, 0.3, 0.6)

cases <- list(
  single = list(table = single, reml = reml(d ~ 1 + (1 | item) + (1 | seed), single)),
  nested = list(
    table = nested,
    reml = reml(d ~ 1 + (1 | seed) + (1 | group) + (1 | group:item) + (1 | group:seed), nested)
  ),
  vanishing = list(table = vanishing, reml = reml(d ~ 1 + (1 | item) + (1 | seed), vanishing)),
  unequal = list(table = unequal)
)
for (name in names(cases)) {
  table <- cases[[name]]$table
  v <- refitted(table)
  cases[[name]]$refitted <- v
  cases[[name]]$margin <- 0.9
  cases[[name]]$weighted <- weighted(v, length(unique(table$seed)), length(unique(table$group)), 0.9)
}
mean_squares <- summary(aov(d ~ factor(item) + factor(seed), single))[[1]][["Mean Sq"]]
cases$single$mean_squares <- list(item = mean_squares[1], seed = mean_squares[2], rest = mean_squares[3])
cat(toJSON(
  list(r = R.version.string, lme4 = as.character(packageVersion("lme4")), cases = cases),
  dataframe = "columns", auto_unbox = TRUE, digits = NA, pretty = TRUE
), "\n")
