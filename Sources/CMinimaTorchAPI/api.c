#include "minima_torch.h"
