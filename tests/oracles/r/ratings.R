# Oracle of tests/test_study_analysis.py: regressions of ratings by lm, clubSandwich, polr, sandwich and lme4.
# Run with: Rscript tests/oracles/r/ratings.R tests/oracles/r/ratings.csv > tests/oracles/r/ratings.json
# The first argument is where the made-up ratings are written.
# Debian: r-cran-clubsandwich, r-cran-lme4, r-cran-mass, r-cran-sandwich, r-cran-jsonlite.
suppressMessages({library(clubSandwich); library(sandwich); library(MASS); library(lme4); library(jsonlite)})
options(digits = 17)
set.seed(7)

# 14 participants see 10 source items, some of which make groups, under one of three variants; some answers are missing.
group_of <- c(1, 1, 2, 3, 3, 3, 4, 5, 6, 7)
table <- expand.grid(item = 1:10, participant = 1:14)
table$group <- group_of[table$item]
table$variant <- c("full", "a", "b")[(table$item + table$participant) %% 3 + 1]
latent <- rnorm(14, 0, 0.8)[table$participant] + rnorm(10, 0, 0.6)[table$item] +
  matrix(rnorm(30, 0, 0.4), 10)[cbind(table$item, match(table$variant, c("full", "a", "b")))] +
  ifelse(table$variant == "a", -0.7, 0) + rnorm(nrow(table))
table$value <- findInterval(latent, c(-1.5, -0.6, 0.2, 1)) + 1
table <- table[-sample(nrow(table), 17), ]
write.csv(table, commandArgs(TRUE)[1], row.names = FALSE)
table$v <- relevel(factor(table$variant), "full")
names <- c("va", "vb")

# Least squares with participants and items as fixed effects, bias-reduced (CR2) by each clustering.
fit <- lm(value ~ v + factor(participant) + factor(item), table)
cr2 <- function(cluster) unname(diag(vcovCR(fit, cluster = cluster, type = "CR2"))[names])
both <- paste(table$participant, table$group)
linear <- list(
  estimate = unname(coef(fit)[names]), by_participant = cr2(table$participant), by_group = cr2(table$group),
  both = cr2(both)
)

# The mean of the answers about one variant, with the same three variances.
one <- table[table$variant == "a", ]
mean_fit <- lm(value ~ 1, one)
cr2_mean <- function(cluster) unname(vcovCR(mean_fit, cluster = cluster, type = "CR2")[1, 1])
constant <- list(
  estimate = unname(coef(mean_fit)), by_participant = cr2_mean(one$participant), by_group = cr2_mean(one$group),
  both = cr2_mean(paste(one$participant, one$group))
)

# Proportional odds, clustered by each: sandwich with G / (G - 1).
odds <- polr(factor(value) ~ v, table, Hess = TRUE, control = list(reltol = 1e-14))
clustered <- function(cluster) unname(diag(vcovCL(odds, cluster = cluster, type = "HC0", cadjust = TRUE))[names])
ordinal <- list(
  estimate = unname(coef(odds)[names]), thresholds = unname(odds$zeta),
  by_participant = clustered(table$participant), by_group = clustered(table$group), both = clustered(both)
)

# Random intercepts of participants, items fixed; and both random, by REML.
control <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-12, maxfun = 1e5))
summary_of <- function(formula) {
  found <- coef(summary(lmer(formula, table, REML = TRUE, control = control)))[names, ]
  list(estimate = unname(found[, "Estimate"]), error = unname(found[, "Std. Error"]))
}

# Signed ranks of participants' mean differences, exact where there are no ties: by the coin of every sign.
wide <- tapply(table$value, list(table$participant, table$variant), mean)
difference <- wide[, "a"] - wide[, "full"]
difference <- difference[!is.na(difference)]
ranks <- rank(abs(difference[difference != 0])) * sign(difference[difference != 0])
signs <- as.matrix(expand.grid(rep(list(c(-1, 1)), length(ranks))))
wilcoxon <- mean(abs(signs %*% abs(ranks)) >= abs(sum(ranks)) - 1e-9)

cat(toJSON(list(
  linear = linear, constant = constant, ordinal = ordinal,
  mixed = summary_of(value ~ v + factor(item) + (1 | participant)),
  mixed_crossed = summary_of(value ~ v + (1 | item) + (1 | participant)),
  wilcoxon = wilcoxon, d_z = mean(difference) / sd(difference),
  spearman = cor(table$value, table$participant, method = "spearman")
), digits = NA, auto_unbox = TRUE, pretty = TRUE), "\n")
