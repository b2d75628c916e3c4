# What R says about paired.csv (24 items in 8 groups), for tests/test_statistics_r.py:
#
#   Rscript statistics.R > statistics.json        (Debian: r-base-core r-recommended r-cran-jsonlite
#                                                  r-cran-coin r-cran-sandwich r-cran-clubsandwich)

suppressPackageStartupMessages({
  library(boot)
  library(clubSandwich)
  library(coin)
  library(jsonlite)
  library(sandwich)
})
data <- read.csv("paired.csv")
d <- data$difference
n <- length(d)
sums <- tapply(d, data$group, sum)
sizes <- tapply(d, data$group, length)
groups <- length(sums)
interval <- function(test) as.numeric(test$conf.int)

# Every pattern of signs of the given values, one by one: two-sided p of their sum.
flipped <- function(values) {
  signs <- as.matrix(expand.grid(rep(list(c(-1, 1)), length(values))))
  mean(abs(signs %*% values) >= abs(sum(values)) - 1e-9)
}
# The same from coin: each value beside 0, exchanged within its block.
exchanged <- function(values) {
  pairs <- data.frame(
    y = as.integer(round(1000 * c(values, 0 * values))),
    x = factor(rep(c("a", "b"), each = length(values))),
    block = factor(rep(seq_along(values), 2))
  )
  as.numeric(pvalue(symmetry_test(y ~ x | block, data = pairs, distribution = "exact")))
}
signed_ranks <- function(values) {
  ranks <- 0 * values
  ranks[values != 0] <- rank(abs(values[values != 0])) * sign(values[values != 0])
  ranks
}

up <- sum(data$after > data$before)
down <- sum(data$after < data$before)
mcnemar <- list(
  up = up, down = down,
  binomial = binom.test(up, up + down)$p.value,
  coin = as.numeric(pvalue(mh_test(
    table(factor(data$before, 0:1), factor(data$after, 0:1)), distribution = "exact"
  )))
)

p <- c(0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216)
adjusted <- lapply(
  list(holm = "holm", bonferroni = "bonferroni", "benjamini-hochberg" = "BH"),
  function(method) p.adjust(p, method)
)

few <- d[1:14]
tied <- round(d[1:14])
pair <- function(values) data.frame(before = 0 * values, after = values)
wilcoxon <- list(
  wilcox.test = wilcox.test(few, exact = TRUE)$p.value,
  all = wilcox.test(d, exact = TRUE)$p.value,
  tied_coin = as.numeric(pvalue(wilcoxsign_test(
    after ~ before, data = pair(tied), distribution = "exact", zero.method = "Wilcoxon"
  ))),
  clustered = flipped(tapply(signed_ranks(d), data$group, sum))
)

fit <- lm(d ~ 1)
error <- sqrt(vcovCL(fit, cluster = data$group, type = "HC1", cadjust = TRUE)[1, 1])
one_sided <- function(margin) c(
  t.test(d, mu = -margin, alternative = "greater")$p.value, t.test(d, mu = margin, alternative = "less")$p.value
)
clustered_one_sided <- function(margin) pt(-(c(mean(d) + margin, margin - mean(d)) / error), groups - 1)

# boot's interval at the level that ours is widened to, for single items and for whole groups.
widened <- function(k) 1 - 2 * pnorm(-sqrt(k / (k - 1)) * qt(0.975, k - 1))
ratio <- function(pieces, rows) sum(pieces$sum[rows]) / sum(pieces$size[rows])
bca <- function(pieces) {
  k <- nrow(pieces)
  set.seed(1)
  found <- boot(pieces, ratio, R = 200000)
  found <- boot.ci(found, conf = widened(k), type = "bca", L = empinf(data = pieces, statistic = ratio, type = "jack", stype = "i"))
  as.numeric(found$bca[4:5])
}

widths <- as.matrix(data[c("bits3", "bits4", "bits16")])
scores <- apply(widths, 1, function(row) {
  s <- 0
  for (i in 1:2) for (j in (i + 1):3) s <- s + sign(row[j] - row[i])
  s
})
untied <- apply(widths, 1, function(row) length(unique(row)) == 3)

out <- list(
  versions = list(
    R = R.version.string, boot = as.character(packageVersion("boot")), coin = as.character(packageVersion("coin")),
    sandwich = as.character(packageVersion("sandwich")),
    clubSandwich = as.character(packageVersion("clubSandwich"))
  ),
  mcnemar = mcnemar,
  clopper_pearson = list(
    "0 of 24" = interval(binom.test(0, 24)), "10 of 24" = interval(binom.test(10, 24)),
    "24 of 24, 90 %" = interval(binom.test(24, 24, conf.level = 0.9))
  ),
  p = p,
  adjusted = adjusted,
  wilcoxon = wilcoxon,
  sign_flip = list(
    clustered = flipped(sums), clustered_coin = exchanged(sums),
    single = flipped(few), single_coin = exchanged(few)
  ),
  error = list(
    sandwich = error,
    clubSandwich = sqrt(as.numeric(vcovCR(fit, cluster = data$group, type = "CR1"))),
    single = sd(d) / sqrt(n)
  ),
  equivalence = list(
    margins = c(0.4, 0.8),
    single = c(max(one_sided(0.4)), max(one_sided(0.8))),
    clustered = c(max(clustered_one_sided(0.4)), max(clustered_one_sided(0.8)))
  ),
  bca = list(
    single = bca(data.frame(sum = data$skewed, size = 1)),
    clustered = bca(data.frame(sum = as.numeric(tapply(data$skewed, data$group, sum)), size = as.numeric(sizes)))
  ),
  t = interval(t.test(d[1:7])),
  effect_size = mean(d) / sd(d),
  cliffs_delta = 2 * suppressWarnings(wilcox.test(data$bits16, data$bits3)$statistic[[1]]) / n^2 - 1,
  trend = list(
    jonckheere = sum(scores),
    kendall_untied = as.numeric(apply(widths[untied, ], 1, function(row) cor(1:3, row, method = "kendall"))),
    untied = which(untied) - 1,
    clustered = flipped(tapply(scores, data$group, sum))
  ),
  power = power.t.test(n = 24, sd = sd(d), power = 0.8, type = "one.sample")$delta
)
cat(toJSON(out, auto_unbox = TRUE, digits = NA, pretty = TRUE), "\n")
